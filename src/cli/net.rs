//! A cluster for a test, in one command: nodes in temporary folders, as processes of their own.

use std::{path::PathBuf, process::Stdio, time::Duration};

use anyhow::{Context, bail, ensure};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
    signal::unix::{SignalKind, signal},
    time::{Instant, sleep, sleep_until},
};

use super::{
    output::{print_line, tell},
    serve::parse_time,
};

/// `qbc net`.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  qbc net                                  three nodes on free ports, gone with Ctrl-C
  qbc net --nodes 5 --port 5000            on the ports 5000 to 5004
  qbc net --kill-every 10s                 a random node dies (kill -9) every ten seconds, and is started again")]
pub struct NetArgs {
    /// How many nodes
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=16))]
    nodes: u16,
    /// Port of the first; the others follow [default: free ones]
    #[arg(long)]
    port: Option<u16>,
    /// End a random node (kill -9) so often, and start it again: 500ms, 10s
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    kill_every: Option<Duration>,
}

/// A node that runs as a process of its own.
struct Member {
    process: Child,
    port: u16,
    data: PathBuf,
}

impl Member {
    /// Starts a node, and waits until it serves.
    async fn start(data: PathBuf, port: u16, secret: &str, join: Option<u16>) -> anyhow::Result<Member> {
        let program = std::env::current_exe().context("cannot find this program")?;
        let mut command = Command::new(program);
        command.env("QBC_SECRET", secret);
        command.args(["serve", "--log", "error", "--port", &port.to_string(), "--data"]).arg(&data);
        if let Some(join) = join {
            command.args(["--join", &format!("localhost:{join}")]);
        }
        // Ctrl-C goes to all of a terminal: they are told by this process, one after the other.
        command.stdin(Stdio::null()).stdout(Stdio::piped()).process_group(0).kill_on_drop(true);
        let mut process = command.spawn().context("cannot start a node")?;
        let mut lines = BufReader::new(process.stdout.take().expect("it is piped")).lines();
        let line = lines.next_line().await?.unwrap_or_default();
        let Some((_, port)) = line.strip_prefix("listening on ").and_then(|url| url.rsplit_once(':')) else {
            bail!("a node does not start: it says why above");
        };
        Ok(Member { port: port.parse().context("its port")?, process, data })
    }

    async fn stop(mut self) {
        if let Some(pid) = self.process.id().and_then(|pid| rustix::process::Pid::from_raw(pid as i32)) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        let _ = tokio::time::timeout(Duration::from_secs(15), self.process.wait()).await;
    }
}

/// Runs a cluster until Ctrl-C.
///
/// # Errors
/// A node does not start.
pub async fn run(args: NetArgs) -> anyhow::Result<()> {
    let last = args.port.map(|port| u32::from(port) + u32::from(args.nodes) - 1);
    ensure!(
        last.is_none_or(|last| last <= 65_535),
        "there are no {} ports from {}",
        args.nodes,
        args.port.unwrap_or(0)
    );
    let folder = tempfile::tempdir().context("cannot make a temporary folder")?;
    let secret = hex::encode(rand::random::<[u8; 32]>());
    let mut members: Vec<Member> = Vec::new();
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    for number in 0..args.nodes {
        let port = args.port.map_or(0, |first| first + number);
        let (data, join) = (folder.path().join(number.to_string()), members.first().map(|first| first.port));
        let starting = Member::start(data, port, &secret, join);
        tokio::select! {
            member = starting => members.push(member?),
            _ = interrupt.recv() => return stop(members).await,
            _ = terminate.recv() => return stop(members).await,
        }
    }
    for member in &members {
        print_line(format_args!("http://localhost:{}", member.port))?;
    }
    let mut next = args.kill_every.map(|every| Instant::now() + every);
    loop {
        let due = async {
            match next {
                Some(at) => sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = interrupt.recv() => break,
            _ = terminate.recv() => break,
            () = due => {
                let number = rand::random_range(0..members.len());
                let member = &mut members[number];
                let (port, data) = (member.port, member.data.clone());
                tell(format_args!("http://localhost:{port} is killed"));
                member.process.kill().await.context("cannot end a node")?;
                // As long as somebody needs to see that it is gone.
                sleep(Duration::from_secs(2)).await;
                members[number] = Member::start(data, port, &secret, None).await?;
                tell(format_args!("http://localhost:{port} is back"));
                next = args.kill_every.map(|every| Instant::now() + every);
            }
        }
    }
    stop(members).await
}

async fn stop(members: Vec<Member>) -> anyhow::Result<()> {
    futures_util::future::join_all(members.into_iter().map(Member::stop)).await;
    Ok(())
}
