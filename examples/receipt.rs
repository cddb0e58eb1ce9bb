//! A client in Rust: records a value exactly once, waits for its receipt, and checks that without the node.
//!
//! ```sh
//! cargo run --example receipt -- http://localhost:5000/chains/orders "$(qbc key)"
//! ```
//!
//! The chain must leap by itself (`qbc bang orders --leap-every 1s`), or somebody must ask it to.

use std::{error::Error, time::Duration};

use qbc::core::{json, note::VerifierKey, verify};
use reqwest::{Client, StatusCode};
use serde_json::{Value, json};

/// Injects data, and gives its receipt. The id makes it safe to send it again after any failure.
async fn record(client: &Client, chain: &str, data: Value, id: &str) -> Result<String, Box<dyn Error>> {
    let transaction = json!({"data": data, "id": id});
    loop {
        let sent = client.post(format!("{chain}/inject?wait=leap")).json(&transaction).send().await;
        // Where the connection broke, the next answer tells whether it was accepted.
        if let Ok(answer) = sent {
            let status = answer.status();
            match (status, answer.text().await) {
                (StatusCode::CREATED, Ok(receipt)) => return Ok(receipt),
                (_, Err(_)) => {}
                (_, Ok(problem)) if !matches!(status.as_u16(), 429 | 503 | 504 | 507) => return Err(problem.into()),
                (_, Ok(_)) => {}
            }
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let chain = std::env::args().nth(1).ok_or("usage: receipt URL [KEY]")?;
    // Got from the node's operator, and not from the node: it alone shows whose chain a receipt is of.
    let keys = std::env::args().skip(2).map(|key| key.parse()).collect::<Result<Vec<VerifierKey>, _>>()?;
    let client = Client::builder().timeout(Duration::from_secs(60)).build()?;
    let order = json!({"order": 1017, "total": "19.90"});
    let receipt = record(&client, &chain, order, "order-1017").await?;

    // From here on nothing is asked of the node: the receipt alone proves it.
    let proof = verify::receipt(json::parse(receipt.as_bytes())?)?;
    println!("verified: {}", String::from_utf8_lossy(proof.record.transaction.data().unwrap_or(b"erased")));
    match keys.is_empty() {
        true => println!("(but not whose chain it is: no key was given)"),
        false => println!("signed by {}", proof.check_signature(&keys)?),
    }

    let forged = receipt.replace("19.90", "9.90");
    match verify::receipt(json::parse(forged.as_bytes())?) {
        Ok(_) => Err("a forged receipt was taken".into()),
        Err(fault) => {
            println!("forged: {fault}");
            Ok(())
        }
    }
}
