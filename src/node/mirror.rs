//! What following a chain of others writes: what is known of it, that its copy is a mirror, and how that goes on.

use std::{collections::BTreeMap, sync::Arc};

use super::Node;
use crate::{
    access::Secret,
    core::{
        count::{Height, Size},
        hash::Hash,
        mirror::Mirror,
        quant::Quant,
    },
    store::StoreError,
    writer::{ChainHandle, Command, MirrorStep, Own, Refused, edge_at},
};

/// The file of a data folder with the tokens that sources of mirrors are shown.
const TOKENS_FILE: &str = "mirror.tokens";

impl Node {
    /// The chains of others that this node follows, or did.
    ///
    /// # Errors
    /// The store is damaged.
    pub(crate) async fn mirrors(&self) -> Result<Vec<Mirror>, StoreError> {
        self.read_store(|store| store.mirrors()).await
    }

    /// Records what is known of a chain of others. It is on disk when this returns.
    ///
    /// # Errors
    /// The node takes no writes.
    pub(crate) async fn record_mirror(&self, mirror: Mirror) -> Result<(), Refused> {
        self.submit(self.own_group(), Own::SetMirror(mirror.into())).await.map(drop)
    }

    /// The tokens that sources of mirrors are shown, by their URLs.
    ///
    /// # Errors
    /// The file cannot be read.
    pub(crate) async fn source_tokens(&self) -> Result<BTreeMap<String, Secret>, StoreError> {
        let text = self.read_store(|store| store.read_secret(TOKENS_FILE)).await?;
        let Some(text) = text else { return Ok(BTreeMap::new()) };
        let wrong = || {
            StoreError::Folder(format!(
                "the file {TOKENS_FILE} of the data folder is damaged: remove it, and give the tokens anew"
            ))
        };
        let tokens: BTreeMap<String, String> = serde_json::from_str(&text).map_err(|_| wrong())?;
        tokens
            .into_iter()
            .map(|(from, token)| Some((from, token.parse().ok()?)))
            .collect::<Option<_>>()
            .ok_or_else(wrong)
    }

    /// Keeps the tokens that sources of mirrors are shown, in a file that the node's user alone can read: the log is for ever, and they
    /// are not.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(crate) async fn keep_source_tokens(&self, tokens: BTreeMap<String, Secret>) -> Result<(), StoreError> {
        let text: BTreeMap<&str, &str> = tokens.iter().map(|(from, token)| (from.as_str(), token.reveal())).collect();
        let text = serde_json::to_string(&text).expect("texts are JSON");
        self.read_store(move |store| store.write_secret(TOKENS_FILE, &text)).await
    }

    /// Forgets that a chain of others was to be followed, of which nothing is here.
    ///
    /// # Errors
    /// The node takes no writes.
    pub(crate) async fn forget_mirror(&self, id: Hash) -> Result<(), Refused> {
        self.submit(self.own_group(), Own::EndMirror(id)).await.map(drop)
    }

    /// The root over a chain's first transactions, and one of its quants.
    ///
    /// # Errors
    /// The store is damaged.
    pub(crate) async fn at(
        &self,
        chain: &Arc<ChainHandle>,
        size: Size,
        quant: Height,
    ) -> Result<(Hash, Quant), StoreError> {
        let chain = chain.clone();
        self.read_store(move |store| Ok((edge_at(store, &chain, size)?.root(), store.quant(&chain.lineage, quant)?)))
            .await
    }

    /// Makes a chain a mirror of the one at this URL. One that is none yet must have this newest quant still, and an empty pool.
    ///
    /// # Errors
    /// It stays as it was.
    pub(crate) async fn make_mirror(&self, chain: &ChainHandle, from: String, newest: Hash) -> Result<(), Refused> {
        let command = Command::SetMirror { chain: chain.number(), from, newest };
        self.submit(chain.group, command).await.map(drop)
    }

    /// Goes on with a mirror, which has so many transactions and quants. All of it was verified. It is on disk when this returns.
    ///
    /// # Errors
    /// Nothing of it was written.
    pub(crate) async fn go_on(
        &self,
        chain: &Arc<ChainHandle>,
        at: (Size, Height),
        steps: Vec<MirrorStep>,
    ) -> Result<(), Refused> {
        self.submit(chain.group, Command::Mirror { chain: chain.number(), at, steps }).await.map(drop)
    }
}
