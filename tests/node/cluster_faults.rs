//! Several nodes, while what they run on breaks: processes, disks, clocks, networks.
//!
//! What needs root, iproute2 or a kernel that can more says so and is skipped without it.

use std::{
    fs,
    os::unix::fs::symlink,
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use qbc::core::transaction::Timestamp;
use reqwest::{Method, blocking::Client};
use serde_json::{Value, json};

use crate::{
    clock,
    cluster::{Nodes, Writers, bang, eventually, signal, while_written},
    faults::Disk,
    support::{Random, problem},
};

#[test]
fn two_of_five_may_die_at_any_moment() {
    let mut nodes = Nodes::start(5);
    bang(nodes.node(0), json!({"name": "of-five", "difficulty": 0, "replicas": 5}));
    let writers = Writers::bang(&nodes, &["one", "two"]).and("of-five");
    while_written(&writers, 6, || {
        let mut random = Random(11);
        for round in 0..2 {
            writers.go_on(30);
            let first = if round == 0 { nodes.leader("of-five") } else { random.below(5) as usize };
            let second = (first + 1 + random.below(4) as usize) % 5;
            for number in [first, second] {
                writers.set(number, None);
            }
            // One is gone, the other one stands still and wakes up in another time.
            nodes.kill(first);
            signal(nodes.node(second), "-STOP");
            writers.go_on(30);
            signal(nodes.node(second), "-CONT");
            nodes.restart(first);
            for number in [first, second] {
                writers.set(number, Some(nodes.node(number)));
            }
        }
        writers.go_on(30);
    });
    nodes.settle();
    writers.check(&nodes);
}

#[test]
fn nodes_come_and_go_while_others_die() {
    let mut nodes = Nodes::start(3);
    let writers = Writers::bang(&nodes, &["one", "two", "three"]);
    while_written(&writers, 6, || {
        writers.go_on(20);
        let new = nodes.add();
        writers.set(new, Some(nodes.node(new)));
        let id = nodes.id(0, new);
        eventually("it may leave", || {
            let left = nodes.node(new).request(Method::DELETE, &format!("/cluster/nodes/{id}")).send().unwrap();
            left.status() == 202
        });
        // While groups move, a node that takes them dies, then the one that leaves, and the one that came.
        for number in [1, 0, new] {
            writers.set(number, None);
            nodes.kill(number);
            thread::sleep(Duration::from_millis(300));
            nodes.restart(number);
            writers.set(number, Some(nodes.node(number)));
            writers.go_on(5);
        }
        eventually("it has left", || {
            let status = nodes.node(new).json("/cluster");
            status["nodes"].as_array().unwrap().iter().all(|node| node["id"] != id.as_str())
        });
        writers.set(0, None);
        nodes.kill(0);
        writers.go_on(20);
    });
    nodes.settle();
    writers.check(&nodes);
}

#[test]
fn a_full_disk_on_one_node_stops_nobody_else() {
    let Some(disk) = Disk::mount(48) else { return };
    let mut nodes = Nodes::with(0, &["--log", "off"]);
    fs::create_dir(disk.data()).unwrap();
    symlink(disk.data(), nodes.data(2)).unwrap();
    for _ in 0..3 {
        nodes.add();
    }
    nodes.settle();
    let writers = Writers::bang(&nodes, &["one", "two", "three"]);
    while_written(&writers, 3, || {
        writers.go_on(20);
        // It leads one of the groups.
        eventually("it says so", || {
            disk.fill(4_096);
            nodes.node(2).get("/readyz").send().unwrap().status() == 503
        });
        let ready = problem(nodes.node(2).get("/readyz").send().unwrap(), 503);
        assert!(ready["detail"].as_str().unwrap().contains("full"), "{ready}");
        // Every chain takes writes, at every node.
        let client = Client::builder().timeout(Duration::from_secs(20)).no_proxy().build().unwrap();
        for chain in ["one", "two", "three"] {
            for node in nodes.running() {
                eventually("it is accepted", || {
                    let body = json!({"data": format!("full-{chain}"), "id": format!("full-{chain}")});
                    let sent = client.post(format!("{}/chains/{chain}/inject", node.url)).json(&body).send();
                    sent.is_ok_and(|answer| answer.status() == 202)
                });
            }
        }
        for _ in 0..2 {
            writers.go_on(30);
            disk.fill(4_096);
        }
        disk.empty();
        eventually("it goes on", || nodes.node(2).get("/readyz").send().unwrap().status() == 200);
        writers.go_on(20);
    });
    nodes.settle();
    writers.check(&nodes);
}

/// Symptom to be kept away: a clock that is a day off makes time go back, or everybody else's writes wait for it.
#[test]
fn a_clock_that_is_a_day_off_takes_no_chain_back() {
    let mut nodes = Nodes::with(0, &["--log", "off"]);
    let preload = format!("LD_PRELOAD={}", clock::shift().display());
    for offset in [0, 86_400, -86_400] {
        let file = nodes.folder.path().join(format!("offset{offset}"));
        fs::write(&file, offset.to_string()).unwrap();
        let file = format!("CLOCK_OFFSET={}", file.display());
        nodes.add_by(&["env", &preload, &file], &[]);
    }
    nodes.settle();
    let chains = ["one", "two", "three"];
    for chain in chains {
        bang(nodes.node(0), json!({"name": chain, "difficulty": 0}));
    }
    let write = |nodes: &Nodes, round: usize| {
        for chain in chains {
            for node in nodes.running() {
                let id = format!("{round}-{}", node.url);
                eventually("it is accepted", || {
                    let body = json!({"data": round, "id": id});
                    node.post(&format!("/chains/{chain}/inject")).json(&body).send().unwrap().status() == 202
                });
            }
            nodes.running().next().unwrap().leap(&format!("/chains/{chain}"));
        }
    };
    write(&nodes, 0);
    // Those with the right clock, and the late one, say that something is in the future; the one ahead cannot know.
    for number in [0, 2] {
        let warnings = nodes.node(number).json("/readyz")["warnings"].to_string();
        assert!(chains.iter().all(|chain| warnings.contains(&format!("\\\"{chain}\\\""))), "{warnings}");
    }
    assert!(nodes.node(1).json("/readyz")["warnings"].is_null());
    // Whoever leads.
    for number in [1, 2, 0] {
        nodes.kill(number);
        write(&nodes, number + 1);
        nodes.restart(number);
        nodes.settle();
    }
    for chain in chains {
        let time = |value: &Value| value["timestamp"].as_str().unwrap().parse::<Timestamp>().unwrap();
        let times: Vec<Timestamp> = nodes.same(chain).iter().map(time).collect();
        assert!(times.is_sorted() && times.len() == 1 + 3 + 6, "{times:?}");
        let quants = nodes.node(0).json(&format!("/chains/{chain}/chain"));
        assert!(quants.as_array().unwrap().iter().map(time).is_sorted());
    }
}

/// Namespaces of a network, each with one address on a bridge.
struct Network(Vec<String>);

/// The bridge; namespaces are called after it.
const BRIDGE: &str = "qbc-test";

fn address(number: usize) -> String {
    format!("10.213.77.{}", number + 2)
}

fn mac(number: usize) -> String {
    format!("02:00:0a:d5:4d:{:02x}", number + 2)
}

/// Runs `ip` or `tc`, and says whether it could.
fn run(command: &str) -> bool {
    let mut words = command.split(' ');
    let mut command = Command::new(words.next().unwrap());
    command.args(words).stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
}

impl Network {
    fn new(count: usize) -> Option<Network> {
        // What an earlier run has left.
        let network = Network((0..count).map(|number| format!("{BRIDGE}-{number}")).collect());
        network.remove();
        let bridge = format!("ip link add {BRIDGE} type bridge");
        let is_made = run(&bridge)
            && run(&format!("ip addr add 10.213.77.1/24 dev {BRIDGE}"))
            && run(&format!("ip link set {BRIDGE} up"))
            && network.0.iter().enumerate().all(|(number, name)| {
                run(&format!("ip netns add {name}"))
                    && run(&format!("ip link add qbct{number} type veth peer name eth0 netns {name}"))
                    && run(&format!("ip link set qbct{number} master {BRIDGE} up"))
                    && run(&format!("ip -n {name} link set eth0 address {} up", mac(number)))
                    && run(&format!("ip -n {name} addr add {}/24 dev eth0", address(number)))
                    && run(&format!("ip -n {name} link set lo up"))
            });
        if !is_made {
            println!("skipped: only root with iproute2 can make network namespaces");
            return None;
        }
        Some(network)
    }

    fn remove(&self) {
        for (number, name) in self.0.iter().enumerate() {
            run(&format!("ip link del qbct{number}"));
            run(&format!("ip netns del {name}"));
        }
        run(&format!("ip link del {BRIDGE}"));
    }

    /// Loses all packets from one node to another, silently: they go to an address that nobody has.
    fn lose(&self, from: usize, to: usize) {
        let to = address(to);
        assert!(run(&format!(
            "ip -n {} neigh replace {to} lladdr 02:00:00:00:00:ff dev eth0 nud permanent",
            self.0[from]
        )));
    }

    fn deliver(&self, from: usize, to: usize) {
        let (mac, to) = (mac(to), address(to));
        assert!(run(&format!("ip -n {} neigh replace {to} lladdr {mac} dev eth0 nud reachable", self.0[from])));
    }

    /// Delays all that a node sends, where the kernel can.
    fn delay(&self, number: usize, is_on: bool) -> bool {
        let verb = if is_on { "add" } else { "del" };
        let delay = if is_on { " netem delay 60ms 40ms" } else { "" };
        run(&format!("tc -n {} qdisc {verb} dev eth0 root{delay}", self.0[number]))
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        self.remove();
    }
}

#[test]
fn a_network_that_is_cut_loses_nothing() {
    let Some(network) = Network::new(3) else { return };
    let mut nodes = Nodes::with(0, &[]);
    for number in 0..3 {
        let options = ["--host", &address(number), "--open", "--log", "off"];
        nodes.add_by(&["ip", "netns", "exec", &network.0[number]], &options);
    }
    nodes.settle();
    let writers = Writers::bang(&nodes, &["one", "two", "three"]);
    while_written(&writers, 4, || {
        let cut = |of: usize, pairs: &[(usize, usize)]| {
            pairs.iter().for_each(|(from, to)| network.lose(*from, *to));
            writers.set(of, None);
            writers.go_on(20);
            // Whoever is cut off has no majority, and says so.
            writers.set(of, Some(nodes.node(of)));
            writers.go_on(5);
            pairs.iter().for_each(|(from, to)| network.deliver(*from, *to));
            writers.go_on(10);
        };
        writers.go_on(20);
        let leader = nodes.leader("one");
        let [other, third] = [1, 2].map(|step| (leader + step) % 3);
        // A partition, then one direction alone.
        cut(leader, &[(leader, other), (other, leader), (leader, third), (third, leader)]);
        cut(third, &[(leader, third), (other, third)]);
        match network.delay(leader, true) {
            true => {
                writers.go_on(10);
                network.delay(leader, false);
            }
            false => println!("the delay is skipped: the kernel has no netem"),
        }
    });
    nodes.settle();
    writers.check(&nodes);
}
