//! What `qbc watch` asks a node for, by its public interface: how it is, its chains a page at a time, its cluster, and the events of the
//! chosen chain. Each goes on for itself, so that what is slow or fails holds up nothing else.

use std::{
    convert::Infallible,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context;
use reqwest::Response;
use serde::Deserialize;
use tokio::{
    sync::{mpsc::Sender, watch::Receiver},
    time::sleep,
};

use super::state::{Health, Listed, Message, News, Page, TAIL};
use crate::cli::{
    connection::{ChainRef, Connection, problem, read_answer},
    read::next_page,
    tail::{Heard, follow},
};

/// Between two requests for the same.
const PAUSE: Duration = Duration::from_secs(1);

/// How long a node may take to answer: what asks is asked again.
const PATIENCE: Duration = Duration::from_secs(5);

/// Chains in one answer.
const CHAINS: usize = 500;

/// How long a chain is chosen before it is followed, so that nothing is asked of those that are passed.
const SETTLED: Duration = Duration::from_millis(150);

/// What the user looks at.
#[derive(Clone, PartialEq, Eq)]
pub struct Wanted {
    /// The chosen chain.
    pub chain: Arc<str>,
    /// The name behind which the chains around it are listed.
    pub after: Option<Arc<str>>,
}

/// How many chains are listed again around the chosen one, each second.
pub const AROUND: usize = 50;

/// The chain to begin with.
///
/// # Errors
/// The node does not answer, does not have the chain, or does not show it.
pub async fn first_chain(node: &Connection) -> anyhow::Result<Arc<str>> {
    if node.names_chain() {
        let chain: Listed = node.ask(node.get(node.url_of_chain()).timeout(PATIENCE)).await?;
        return Ok(chain.name.into());
    }
    // The default chain, or the first one that may be seen.
    let default = node.get(node.url_of_chain()).timeout(PATIENCE);
    if let Ok(chain) = node.ask::<Listed>(default).await {
        return Ok(chain.name.into());
    }
    let page = page(node, None, 1).await?;
    Ok(page.chains.into_iter().next().map_or("qbc".into(), |chain| chain.name.into()))
}

/// Asks, and goes on asking.
pub async fn run(node: &Connection, messages: Sender<Message>, wanted: Receiver<Wanted>) -> Infallible {
    let (health, chains, cluster, tail) = (
        health(node, &messages),
        chains(node, &messages, wanted.clone()),
        cluster(node, &messages),
        tail(node, &messages, wanted),
    );
    tokio::join!(health, chains, cluster, tail).0
}

/// The screen takes what is sent until it ends, and this with it.
async fn send(messages: &Sender<Message>, message: Message) {
    let _ = messages.send(message).await;
}

async fn health(node: &Connection, messages: &Sender<Message>) -> Infallible {
    #[derive(Deserialize)]
    struct Answer {
        #[serde(default)]
        warnings: Vec<String>,
    }
    loop {
        let answer = node.send_any(node.get(node.node_url(&["readyz"])).timeout(PATIENCE)).await;
        let url = answer.as_ref().ok().and_then(|answer| answer.url().join(".").ok());
        let url = url.map(|url| url.as_str().trim_end_matches('/').to_owned());
        let health = match answer {
            Err(error) => Health::Away(format!("{error:#}")),
            Ok(response) if !response.status().is_success() => Health::NotReady(problem(response).await.to_string()),
            Ok(response) => match read::<Answer>(response).await {
                Ok(Answer { warnings }) => Health::Ready(warnings),
                Err(error) => Health::Away(format!("{error:#}")),
            },
        };
        send(messages, Message::Health(health, url)).await;
        sleep(PAUSE).await;
    }
}

async fn read<T: serde::de::DeserializeOwned>(response: Response) -> anyhow::Result<T> {
    read_answer(&response.bytes().await.context("the connection broke")?)
}

/// The next chains behind a name.
async fn page(node: &Connection, after: Option<&str>, limit: usize) -> anyhow::Result<Page> {
    let mut url = node.node_url(&["chains"]);
    url.query_pairs_mut().append_pair("limit", &limit.to_string());
    if let Some(after) = after {
        url.query_pairs_mut().append_pair("after", after);
    }
    let response = node.send(node.get(url).timeout(PATIENCE)).await?;
    let (is_last, at) = (next_page(&response)?.is_none(), Instant::now());
    let chains: Vec<Listed> = read(response).await?;
    Ok(Page { at, chains, is_of_list: true, is_last })
}

/// The list is read a page each second, and the chains around the chosen one each second. The first time, and where there is only one
/// page, all of it is read at once.
async fn chains(node: &Connection, messages: &Sender<Message>, wanted: Receiver<Wanted>) -> Infallible {
    let (mut after, mut is_first) = (None::<String>, true);
    loop {
        match page(node, after.as_deref(), CHAINS).await {
            Err(error) => send(messages, Message::NoChains(format!("{error:#}"))).await,
            Ok(page) => {
                let is_all = after.is_none() && page.is_last;
                after = page.chains.last().filter(|_| !page.is_last).map(|chain| chain.name.clone());
                is_first &= !page.is_last;
                send(messages, Message::Chains(page)).await;
                if is_first {
                    continue;
                }
                let from = wanted.borrow().after.clone();
                if !is_all && let Ok(around) = self::page(node, from.as_deref(), 2 * AROUND).await {
                    send(messages, Message::Chains(Page { is_of_list: false, ..around })).await;
                }
            }
        }
        sleep(PAUSE).await;
    }
}

async fn cluster(node: &Connection, messages: &Sender<Message>) -> Infallible {
    loop {
        let request = node.get(node.node_url(&["cluster"])).timeout(PATIENCE);
        // One that does not tell whoever shows this token never will, and one that is away has told before.
        if let Ok(status) = node.ask(request).await {
            send(messages, Message::Cluster(status)).await;
        }
        sleep(PAUSE).await;
    }
}

async fn tail(node: &Connection, messages: &Sender<Message>, mut wanted: Receiver<Wanted>) -> Infallible {
    loop {
        let chain = wanted.borrow_and_update().chain.clone();
        let is_another = |wanted: &Wanted| wanted.chain != chain;
        tokio::select! {
            never = follow_one(node, messages, &chain) => match never {},
            changed = wanted.wait_for(is_another) => drop(changed),
        }
    }
}

/// Follows a chain, from a screenful before its end on.
async fn follow_one(node: &Connection, messages: &Sender<Message>, chain: &Arc<str>) -> Infallible {
    #[derive(Deserialize)]
    struct Stats {
        size: u64,
    }
    let tell = |news| send(messages, Message::Tail(chain.clone(), news));
    let follow_it = async || {
        let node = node.on(chain.parse::<ChainRef>().map_err(anyhow::Error::msg)?);
        let Stats { size } = node.ask(node.get(node.chain_url(&["stats"])).timeout(PATIENCE)).await?;
        let from = size.saturating_sub(TAIL as u64 / 2);
        tell(News::Start).await;
        follow(&node, Some(from), async |heard| {
            tell(match heard {
                Heard::Events(events) => News::Events(events),
                Heard::Lost(reason) => News::Lost(reason),
                Heard::Connected => News::Connected,
            })
            .await;
            Ok(())
        })
        .await
    };
    sleep(SETTLED).await;
    loop {
        if let Err(error) = follow_it().await {
            tell(News::Lost(format!("{error:#}"))).await;
        }
        sleep(PAUSE).await;
    }
}
