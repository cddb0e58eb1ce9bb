//! What groups of several nodes write: entries, votes, and what does not count any more. All that waits shares one sync.
//!
//! An entry is written before it is agreed, and [applied](Store::apply) when it is: only then the index has it, and readers see it.

use std::{
    ops::Range,
    sync::{Condvar, Mutex},
    thread::sleep,
};

use super::{
    Batch, ClusterChange, Entry, EntryId, Erasure, Group, GroupRecord, GroupState, Membership, NodeId, Said, Store,
    StoreError, Vote,
    entry::EntryHead,
    groups::{Known, LoggedEntry, Waiting, read_entry},
    index::Rows,
};
use crate::{
    core::{count, hash::Hash},
    limits,
    log::{LogError, Place},
};

/// Is told when what was asked for is durable.
pub type Done = Box<dyn FnOnce(Result<(), StoreError>) + Send>;

/// What waits to be written.
#[derive(Default)]
pub(super) struct Journal {
    queue: Mutex<Queue>,
    wake: Condvar,
}

#[derive(Default)]
struct Queue {
    jobs: Vec<(Group, Job)>,
    /// Whether anybody waits for one of them.
    is_urgent: bool,
    has_ended: bool,
}

enum Job {
    Append(Vec<Entry>, Done),
    Vote(Vote, Done),
    Truncate(u64),
    Committed(EntryId),
}

/// An entry in a batch that is made.
struct Appended {
    group: Group,
    id: EntryId,
    /// From its head to its last record.
    span: crate::log::Slot,
    records: Vec<crate::log::Slot>,
}

impl Journal {
    fn push(&self, group: Group, job: Job) {
        let mut queue = self.queue.lock().expect("no holder of this lock panics");
        queue.is_urgent |= !matches!(job, Job::Committed(_));
        queue.jobs.push((group, job));
        if queue.is_urgent {
            self.wake.notify_one();
        }
    }
}

impl Store {
    /// Writes what is asked for below, until [`Store::end_journal`].
    pub fn run_journal(&self) {
        loop {
            let mut queue = self.journal.queue.lock().expect("no holder of this lock panics");
            while !queue.is_urgent && !queue.has_ended {
                queue = self.journal.wake.wait(queue).expect("no holder of this lock panics");
            }
            let jobs = std::mem::take(&mut queue.jobs);
            let has_ended = queue.has_ended;
            queue.is_urgent = false;
            drop(queue);
            let mut jobs = jobs.into_iter().peekable();
            while jobs.peek().is_some() {
                self.write_jobs(&mut jobs);
            }
            if has_ended {
                return;
            }
        }
    }

    /// Ends the journal when all that waits is written.
    pub fn end_journal(&self) {
        self.journal.queue.lock().expect("no holder of this lock panics").has_ended = true;
        self.journal.wake.notify_one();
    }

    /// Writes jobs as one batch, as many as fit.
    fn write_jobs(&self, jobs: &mut std::iter::Peekable<impl Iterator<Item = (Group, Job)>>) {
        let mut log = self.log.lock().expect("no holder of this lock panics");
        let mut batch = log.batch();
        let (mut appended, mut waiting, mut votes) = (Vec::new(), Vec::new(), Vec::new());
        while batch.encoded_bytes() < limits::JOURNAL_BYTES
            && let Some((group, job)) = jobs.next()
        {
            match job {
                Job::Append(entries, done) => {
                    for entry in entries {
                        let head = GroupRecord::Entry(EntryHead::of(group, &entry)).encode();
                        let head = batch.push(&head, []);
                        let slots: Vec<_> = match &entry.said {
                            Said::Effects(records) => records.iter().map(|record| record.log(&mut batch)).collect(),
                            _ => Vec::new(),
                        };
                        let last = slots.last().map_or(head, |(_, last)| *last);
                        let records = slots.into_iter().map(|(record, _)| record).collect();
                        appended.push(Appended { group, id: entry.id, span: head.to(last), records });
                    }
                    waiting.push(done);
                }
                Job::Vote(vote, done) => {
                    batch.push(&GroupRecord::Vote(group, vote).encode(), []);
                    votes.push(group);
                    waiting.push(done);
                }
                Job::Truncate(from) => drop(batch.push(&GroupRecord::Truncated(group, from).encode(), [])),
                Job::Committed(id) => drop(batch.push(&GroupRecord::Committed(group, id).encode(), [])),
            }
        }
        let before = log.newest();
        let written = loop {
            match log.reserve(batch.encoded_bytes()) {
                // The others go on without this node until there is room.
                Err(LogError::Full) if !self.journal.queue.lock().expect("no holder of this lock panics").has_ended => {
                    sleep(limits::ROOM_PAUSE);
                }
                Err(error) => break Err(error),
                Ok(()) => {
                    break log.place(batch).and_then(|placed| {
                        let place = |slot| placed.place(slot);
                        let logged = appended.iter().map(|Appended { span, records, .. }| LoggedEntry {
                            span: place(*span),
                            records: records.iter().map(|slot| place(*slot)).collect(),
                            before,
                        });
                        let logged: Vec<LoggedEntry> = logged.collect();
                        self.write(placed).map(|mark| (mark, logged))
                    });
                }
            }
        };
        let written = written.map_err(StoreError::from).and_then(|(mark, logged)| {
            let index = self.index()?;
            let mut groups = self.groups.lock().expect("no holder of this lock panics");
            for (Appended { group, id, .. }, logged) in appended.into_iter().zip(logged) {
                let of = groups.by_id.get_mut(&group).and_then(|of| of.waiting.get_mut(&id.index));
                if let Some(waiting) = of.filter(|waiting| waiting.id == id) {
                    waiting.logged = Some(logged);
                }
            }
            let mut rows = Rows::default();
            for group in votes {
                rows.group(group, &groups.by_id[&group]);
            }
            // Before any mark says that the index has them.
            if !rows.is_empty() {
                self.write_index(&index, rows, None);
            }
            if groups.newest.is_none_or(|newest| newest == before) {
                groups.newest = Some(mark);
            }
            Ok(())
        });
        drop(log);
        for done in waiting {
            done(written.clone());
        }
    }

    /// How far a group has come on this node.
    pub fn group(&self, group: Group) -> GroupState {
        self.groups.lock().expect("no holder of this lock panics").state(group)
    }

    /// Whether this node is the only member of a group, so that what it has on disk is agreed.
    pub fn is_alone(&self, group: Group) -> bool {
        let groups = self.groups.lock().expect("no holder of this lock panics");
        groups.by_id.get(&group).is_some_and(|of| of.is_alone(self.node.get().copied()))
    }

    /// All groups that this node keeps something of.
    pub fn groups(&self) -> Vec<Group> {
        self.groups.lock().expect("no holder of this lock panics").by_id.keys().copied().collect()
    }

    /// Appends entries to a group: they can be read when this returns, and are durable when `done` is told.
    pub fn append(&self, group: Group, entries: Vec<Entry>, done: Done) {
        let mut groups = self.groups.lock().expect("no holder of this lock panics");
        let of = groups.by_id.entry(group).or_default();
        for Entry { id, said } in &entries {
            let membership = match said {
                Said::Membership(membership) => Some(membership.clone()),
                _ => None,
            };
            of.waiting.insert(id.index, Waiting { id: *id, said: Some(said.clone()), membership, logged: None });
        }
        // In the order of the log while the lock is held.
        self.journal.push(group, Job::Append(entries, done));
    }

    /// Records a vote.
    pub fn save_vote(&self, group: Group, vote: Vote, done: Done) {
        let mut groups = self.groups.lock().expect("no holder of this lock panics");
        groups.by_id.entry(group).or_default().vote = Some(vote);
        self.journal.push(group, Job::Vote(vote, done));
    }

    /// Records that all entries up to this one are agreed. It becomes durable with what is written next.
    pub fn save_committed(&self, group: Group, id: EntryId) {
        let mut groups = self.groups.lock().expect("no holder of this lock panics");
        groups.by_id.entry(group).or_default().committed = Some(id);
        self.journal.push(group, Job::Committed(id));
    }

    /// Takes back the entries from this index on. They are not agreed.
    pub fn truncate(&self, group: Group, from: u64) {
        let mut groups = self.groups.lock().expect("no holder of this lock panics");
        groups.by_id.entry(group).or_default().truncate(from);
        self.journal.push(group, Job::Truncate(from));
    }

    /// Gives out no entries up to this one any more.
    pub fn hide(&self, group: Group, id: EntryId) {
        let mut groups = self.groups.lock().expect("no holder of this lock panics");
        let of = groups.by_id.entry(group).or_default();
        of.waiting = of.waiting.split_off(&(id.index + 1));
        of.hidden = of.hidden.max(Some(id));
    }

    /// Whether an entry is in memory.
    pub fn is_recent(&self, group: Group, index: u64) -> bool {
        let groups = self.groups.lock().expect("no holder of this lock panics");
        groups.by_id.get(&group).is_some_and(|of| {
            of.recent(index).is_some() || of.waiting.get(&index).is_some_and(|waiting| waiting.said.is_some())
        })
    }

    /// Entries of a range, as many as fit into `bytes` but at least one. Those that are not here are left out.
    ///
    /// # Errors
    /// What is stored is damaged.
    pub fn entries(&self, group: Group, range: Range<u64>, bytes: usize) -> Result<Vec<Entry>, StoreError> {
        let (mut entries, mut room) = (Vec::new(), bytes);
        let (start, end) = {
            let groups = self.groups.lock().expect("no holder of this lock panics");
            let Some(of) = groups.by_id.get(&group) else { return Ok(entries) };
            // The first entry of a group has the index 0, but in tests of the engine.
            let first = of.waiting.first_key_value().filter(|_| of.applied.is_none()).map_or(0, |(first, _)| *first);
            (of.hidden.map_or(first, |id| id.index + 1), of.next())
        };
        for index in range.start.max(start)..range.end.min(end) {
            let Some(entry) = self.entry(group, index)? else { break };
            let size = entry.said.bytes();
            if size > room && !entries.is_empty() {
                break;
            }
            room = room.saturating_sub(size);
            entries.push(entry);
        }
        Ok(entries)
    }

    fn entry(&self, group: Group, index: u64) -> Result<Option<Entry>, StoreError> {
        let held = self.index()?;
        let waiting = {
            let groups = self.groups.lock().expect("no holder of this lock panics");
            let Some(of) = groups.by_id.get(&group) else { return Ok(None) };
            if let Some(entry) = of.recent(index) {
                return Ok(Some(entry));
            }
            of.waiting.get(&index).map(|waiting| (waiting.id, waiting.said.clone(), waiting.logged.clone()))
        };
        let erasure = |chain: Hash, index: count::Index| {
            let ids = self.ids.read().expect("no holder of this lock panics");
            for number in ids.iter().filter(|(_, id)| **id == chain).map(|(number, _)| *number) {
                if let Some(erasure) = held.erasure(number, index)? {
                    return Ok(Some(erasure));
                }
            }
            // Nothing is left of what was imported and given up.
            let is_chain = held.chains()?.iter().any(|record| record.id == chain);
            Ok((!is_chain).then_some(Erasure::GONE))
        };
        match waiting {
            Some((id, Some(said), _)) => Ok(Some(Entry { id, said })),
            Some((id, None, Some(logged))) => read_entry(&self.reader, id, logged.span, erasure).map(Some),
            _ => match held.entry(group, index)? {
                Some((id, span)) => read_entry(&self.reader, id, span, erasure).map(Some),
                None => Ok(None),
            },
        }
    }

    /// The records of an entry that waits to be applied, with their places, once it is durable here.
    ///
    /// # Errors
    /// What is stored is damaged.
    pub fn waiting_places(&self, group: Group, index: u64) -> Option<Vec<Place>> {
        let groups = self.groups.lock().expect("no holder of this lock panics");
        let logged = groups.by_id.get(&group)?.waiting.get(&index)?.logged.as_ref()?;
        Some(logged.records.clone())
    }

    /// Makes the next entry of a group visible, which is agreed and durable here, with what it comes to. `said` is what it says: the
    /// store itself does not hold that of an entry from before its opening. It gives the places of what it erases, for
    /// [`Store::erase`], and whether a change of the cluster was as expected.
    ///
    /// # Errors
    /// As of [`Store::commit`].
    pub fn apply(
        &self,
        group: Group,
        index: u64,
        said: &Said,
        mut batch: Batch,
    ) -> Result<(Vec<Place>, bool), StoreError> {
        // In this order, as everywhere.
        let mut log = (!batch.erased.is_empty()).then(|| self.log.lock().expect("no holder of this lock panics"));
        let held = self.index()?;
        let doomed = self.begin(&held, &mut batch)?;
        if let Some(log) = log.as_mut().filter(|_| !doomed.is_empty()) {
            let mut announced = log.batch();
            doomed.iter().for_each(|place| announced.erase(*place));
            self.write(log.place(announced)?)?;
        }
        let Batch { runs, mut rows, .. } = batch;
        let mut is_as_expected = true;
        {
            let mut groups = self.groups.lock().expect("no holder of this lock panics");
            groups.erasing += usize::from(!doomed.is_empty());
            let of = groups.by_id.get_mut(&group).expect("a group with entries is known");
            let waiting = of.take_waiting(index);
            let logged = waiting.logged.expect("an entry is applied when it is durable here");
            assert_eq!(runs.len(), logged.records.len(), "what an entry comes to is of its records");
            for (run, place) in runs.iter().zip(&logged.records) {
                if let Some(run) = run {
                    rows.run(run.chain, &run.row(*place));
                }
            }
            rows.entry(group, waiting.id, logged.span);
            if let Some(membership) = waiting.membership {
                of.membership = Some((waiting.id, membership));
                rows.group(group, of);
            }
            if let Said::Cluster(json) = said
                && group == Group::META
            {
                let change = ClusterChange::parse(json)?;
                let mut known = self.cluster.write().expect("no holder of this lock panics");
                change.check(&known, index)?;
                is_as_expected = change.apply(&mut known);
                if is_as_expected {
                    rows.cluster(&change);
                }
            }
            // While the lock is held: a mark of another group must not come before what it says to be there.
            let settled = groups.settled().filter(|_| doomed.is_empty());
            self.write_index(&held, rows, settled);
        }
        Ok((doomed, is_as_expected))
    }

    /// Founds a group of this node alone, where there is none yet: its first entry says that.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn found(&self, group: Group, node: NodeId) -> Result<(), StoreError> {
        let _ = self.node.set(node);
        let mut log = self.log.lock().expect("no holder of this lock panics");
        let index = self.index()?;
        let mut groups = self.groups.lock().expect("no holder of this lock panics");
        let of = groups.by_id.entry(group).or_default();
        if of.last().is_some() {
            return Ok(());
        }
        let vote = Vote { term: 1, node, committed: true };
        let id = EntryId { term: 1, leader: node, index: 0 };
        let entry = Entry { id, said: Said::Membership(Membership::alone(node).into()) };
        let mut batch = log.batch();
        batch.push(&GroupRecord::Vote(group, vote).encode(), []);
        let head = batch.push(&GroupRecord::Entry(EntryHead::of(group, &entry)).encode(), []);
        let placed = log.place(batch)?;
        let span = placed.place(head);
        let mark = self.write(placed)?;
        let Said::Membership(membership) = entry.said else { unreachable!("it was just made") };
        of.vote = Some(vote);
        (of.applied, of.committed, of.membership) = (Some(id), Some(id), Some((id, membership)));
        let mut rows = Rows::default();
        rows.group(group, of);
        rows.entry(group, id, span);
        groups.newest = Some(mark);
        let settled = groups.settled();
        self.write_index(&index, rows, settled);
        Ok(())
    }

    /// The group that keeps a chain of this name, as far as the cluster knows one.
    pub fn place_of(&self, name: &str) -> Option<Group> {
        self.cluster(|known| known.place_of(name))
    }

    /// The change that has all nodes compare what they know with what this one knows, which leads; nothing where that was the last change.
    pub fn comparison(&self) -> Option<ClusterChange> {
        // What is applied and what is known change together while this is held.
        let groups = self.groups.lock().expect("no holder of this lock panics");
        let applied = groups.state(Group::META).applied?;
        self.cluster(|known| known.comparison(applied.index + 1))
    }

    /// Reads what the cluster knows.
    pub fn cluster<T>(&self, read: impl FnOnce(&Known) -> T) -> T {
        read(&self.cluster.read().expect("no holder of this lock panics"))
    }
}
