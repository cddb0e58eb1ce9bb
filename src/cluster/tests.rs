//! The engine's own tests of a storage, on the log of a node.

use std::{
    io,
    sync::{Arc, Mutex},
};

use futures_util::{Stream, StreamExt};
use openraft::{
    EntryPayload, OptionalSend, RaftSnapshotBuilder, StorageError,
    storage::{EntryResponder, RaftStateMachine},
    testing::log::{StoreBuilder, Suite},
};

use super::engine::{GroupStorage, LogId, Snapshot, SnapshotMeta, StoredMembership, Types};
use crate::store::{Group, Progress, Store};

/// Keeps nothing but how far it is.
#[derive(Clone, Default)]
struct Counting {
    applied: Option<LogId>,
    membership: StoredMembership,
    snapshot: Arc<Mutex<Option<SnapshotMeta>>>,
}

impl RaftSnapshotBuilder<Types> for Counting {
    type SnapshotData = ();

    async fn build_snapshot(&mut self) -> Result<Snapshot, io::Error> {
        let meta = SnapshotMeta { last_log_id: self.applied, last_membership: self.membership.clone() };
        *self.snapshot.lock().unwrap() = Some(meta.clone());
        Ok(Snapshot { meta, snapshot: () })
    }
}

impl RaftStateMachine<Types> for Counting {
    type SnapshotBuilder = Counting;
    type SnapshotData = ();

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        Ok((self.applied, self.membership.clone()))
    }

    async fn apply<S>(&mut self, mut entries: S) -> Result<(), io::Error>
    where
        S: Stream<Item = Result<EntryResponder<Types>, io::Error>> + Unpin + OptionalSend,
    {
        while let Some(next) = entries.next().await {
            let (entry, responder) = next?;
            self.applied = Some(entry.log_id);
            if let EntryPayload::Membership(membership) = entry.payload {
                self.membership = StoredMembership::new(Some(entry.log_id), membership);
            }
            if let Some(responder) = responder {
                responder.send(true);
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Counting {
        self.clone()
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, _snapshot: ()) -> Result<(), io::Error> {
        (self.applied, self.membership) = (meta.last_log_id, meta.last_membership.clone());
        *self.snapshot.lock().unwrap() = Some(meta.clone());
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, io::Error> {
        let meta = self.snapshot.lock().unwrap().clone();
        Ok(meta.map(|meta| Snapshot { meta, snapshot: () }))
    }
}

/// A store in a folder of its own, whose journal runs as long as it is used.
struct Opened {
    store: Arc<Store>,
    journal: Option<std::thread::JoinHandle<()>>,
    _folder: tempfile::TempDir,
}

impl Drop for Opened {
    fn drop(&mut self) {
        self.store.end_journal();
        self.journal.take().unwrap().join().unwrap();
    }
}

struct Folders;

impl StoreBuilder<Types, GroupStorage, Counting, Opened> for Folders {
    async fn build(&self) -> Result<(Opened, GroupStorage, Counting), StorageError<Types>> {
        let folder = tempfile::tempdir().unwrap();
        let store = Arc::new(Store::open(&folder.path().join("data"), 7, Progress::default()).unwrap());
        let writing = store.clone();
        let journal = Some(std::thread::spawn(move || writing.run_journal()));
        let storage = GroupStorage::new(store.clone(), Group(1));
        Ok((Opened { store, journal, _folder: folder }, storage, Counting::default()))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_engines_own_tests_of_a_storage_pass() {
    Suite::test_all(Folders).await.unwrap();
}
