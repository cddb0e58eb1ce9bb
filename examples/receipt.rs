//! A client in Rust: records a value, waits until a quant seals it, and checks the receipt offline.
//!
//! Start a node with `cargo run --release`, then `cargo run --example receipt -- http://localhost:5000 "$(qbc key)"`.

use qbc::core::{json, note::VerifierKey, verify};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let node = std::env::args().nth(1).unwrap_or_else(|| "http://localhost:5000".into());
    // Got from the node's operator, and not from the node: it alone shows whose chain a receipt is of.
    let keys = std::env::args().skip(2).map(|key| key.parse()).collect::<Result<Vec<VerifierKey>, _>>()?;
    let client = reqwest::Client::new();

    // The id makes the request safe to repeat: if the answer is lost, the same request gives the same place again.
    let order = serde_json::json!({"data": {"order": 1017, "total": "19.90"}, "id": "order-1017"});
    let accepted = client.post(format!("{node}/inject")).json(&order).send().await?.error_for_status()?;
    println!("on disk: {}", accepted.text().await?);

    // A node with --leap-every leaps by itself; this one may not.
    client.post(format!("{node}/leap")).send().await?.error_for_status()?;

    let sent_again = client.post(format!("{node}/inject?wait=leap")).json(&order).send().await?.error_for_status()?;
    let receipt = sent_again.bytes().await?;

    // From here on nothing is asked of the node: the receipt alone proves it.
    let proof = verify::receipt(json::parse(&receipt)?)?;
    println!("transaction {} is sealed by quant {}", proof.record.index, proof.quant.hash());
    match keys.is_empty() {
        true => println!("not proven: that this is a quant of the chain {}, since no key was named", proof.chain),
        false => println!("it is of the chain {}, says {}", proof.chain, proof.check_signature(&keys)?),
    }

    let forged = String::from_utf8(receipt.to_vec())?.replace("19.90", "9.90");
    let fault = verify::receipt(json::parse(forged.as_bytes())?).expect_err("another total has another hash");
    println!("a forged receipt is found out: {fault}");
    Ok(())
}
