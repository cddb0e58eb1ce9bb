//! The groups that this node keeps: how far each is agreed and applied, and what of it is not applied yet.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::Arc,
};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{
    StoreError,
    effects::{self, Content},
    entry::{Entry, EntryId, Group, GroupRecord, LogRecord, Membership, NodeId, Said, Vote},
    index::{Index, Rows, Space, from_json, key, malformed, unreadable},
    runs::{Erasure, parse_run},
};
use crate::{
    core::{
        count,
        hash::{self, Hash},
        json,
    },
    limits,
    log::{Mark, Place, Reader},
};

/// A group on this node.
#[derive(Default)]
pub(super) struct GroupLog {
    pub(super) vote: Option<Vote>,
    pub(super) committed: Option<EntryId>,
    pub(super) applied: Option<EntryId>,
    /// Who keeps it by what is applied, and the entry that says so.
    pub(super) membership: Option<(EntryId, Arc<Membership>)>,
    /// What is not applied yet, by index.
    pub(super) waiting: BTreeMap<u64, Waiting>,
    /// Entries up to it are not given out any more.
    pub(super) hidden: Option<EntryId>,
    /// Applied entries that a replica may ask for next, and their bytes.
    recent: VecDeque<Entry>,
    recent_bytes: usize,
}

/// An entry that is not applied yet.
pub(super) struct Waiting {
    pub(super) id: EntryId,
    /// Nothing where it is only in the log.
    pub(super) said: Option<Said>,
    /// Who keeps the group from it on, if it says that.
    pub(super) membership: Option<Arc<Membership>>,
    /// Nothing until it is synced.
    pub(super) logged: Option<LoggedEntry>,
}

/// Where an entry stands in the log.
#[derive(Clone)]
pub(super) struct LoggedEntry {
    /// Its head and its records.
    pub(super) span: Place,
    /// Its records, without the head.
    pub(super) records: Vec<Place>,
    /// The end of the batch before.
    pub(super) before: Mark,
}

impl GroupLog {
    pub(super) fn last(&self) -> Option<EntryId> {
        self.waiting.last_key_value().map(|(_, waiting)| waiting.id).or(self.applied).max(self.hidden)
    }

    /// The index of the next entry.
    pub(super) fn next(&self) -> u64 {
        self.last().map_or(0, |last| last.index + 1)
    }

    /// Who keeps it by all that is in the log.
    pub(super) fn newest_membership(&self) -> Option<&Membership> {
        let waiting = self.waiting.values().rev().find_map(|waiting| waiting.membership.as_deref());
        waiting.or(self.membership.as_ref().map(|(_, membership)| &**membership))
    }

    /// Whether this node agrees for all of the group, so that what it has on disk is agreed.
    pub(super) fn is_alone(&self, node: Option<NodeId>) -> bool {
        node.is_some_and(|node| self.newest_membership().is_some_and(|membership| membership.is_alone(node)))
    }

    pub(super) fn truncate(&mut self, from: u64) {
        self.waiting.split_off(&from);
    }

    /// Takes the next entry out of those that wait, since it is applied.
    pub(super) fn take_waiting(&mut self, index: u64) -> Waiting {
        let waiting = self.waiting.remove(&index).expect("an entry that is agreed is here");
        (self.applied, self.committed) = (Some(waiting.id), self.committed.max(Some(waiting.id)));
        if let Some(said) = &waiting.said {
            self.recent_bytes += said.bytes();
            self.recent.push_back(Entry { id: waiting.id, said: said.clone() });
            while self.recent_bytes > limits::RECENT_ENTRIES_BYTES
                && let Some(oldest) = self.recent.pop_front()
            {
                self.recent_bytes -= oldest.said.bytes();
            }
        }
        waiting
    }

    /// An applied entry that is still in memory.
    pub(super) fn recent(&self, index: u64) -> Option<Entry> {
        let first = self.recent.front()?.id.index;
        self.recent.get(index.checked_sub(first)? as usize).filter(|entry| entry.id.index == index).cloned()
    }
}

/// How far a group has come on this node.
#[derive(Clone, Debug)]
pub struct GroupState {
    /// Whom this node has voted for.
    pub vote: Option<Vote>,
    /// All up to it is agreed.
    pub committed: Option<EntryId>,
    /// The newest entry that is here.
    pub last: Option<EntryId>,
    /// The newest entry whose effects are visible.
    pub applied: Option<EntryId>,
    /// Who keeps it by what is applied, and the entry that says so.
    pub membership: Option<(EntryId, Arc<Membership>)>,
    /// Entries up to it are not given out any more: none, but in tests of the engine.
    pub purged: Option<EntryId>,
}

/// All groups on this node.
#[derive(Default)]
pub(super) struct Groups {
    pub(super) by_id: BTreeMap<Group, GroupLog>,
    /// The newest batch of which the index has all that is not of an entry.
    pub(super) newest: Option<Mark>,
    /// Batches that have announced erasures which are not done. Until there is none, `newest` stays before them, so that a start
    /// completes them.
    pub(super) erasing: usize,
}

impl Groups {
    /// Up to where the index has all that the log says: from there it is brought up to the log again.
    pub(super) fn settled(&self) -> Option<Mark> {
        let first = self.by_id.values().filter_map(|group| group.waiting.values().next()?.logged.as_ref());
        let first = first.map(|logged| logged.before).min_by_key(|mark| mark.number);
        match (first, self.newest) {
            (Some(first), Some(newest)) if first.number < newest.number => Some(first),
            (_, newest) => newest,
        }
    }

    pub(super) fn state(&self, group: Group) -> GroupState {
        let of = self.by_id.get(&group);
        GroupState {
            vote: of.and_then(|of| of.vote),
            committed: of.and_then(|of| of.committed),
            last: of.and_then(GroupLog::last),
            applied: of.and_then(|of| of.applied),
            membership: of.and_then(|of| of.membership.clone()),
            purged: of.and_then(|of| of.hidden),
        }
    }
}

/// What the index has of a group beside its entries.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct GroupRow {
    vote: Option<Vote>,
    membership: Option<(EntryId, Membership)>,
}

const GROUP: &str = "group ";

impl Rows {
    /// Vote and members of a group.
    pub(super) fn group(&mut self, group: Group, of: &GroupLog) {
        let membership = of.membership.as_ref().map(|(id, membership)| (*id, Membership::clone(membership)));
        let row = GroupRow { vote: of.vote, membership };
        self.own(&format!("{GROUP}{group}"), Some(&serde_json::to_string(&row).expect("it is JSON")));
    }

    /// Where an applied entry stands.
    pub(super) fn entry(&mut self, group: Group, id: EntryId, span: Place) {
        let value = [&span.encode()[..], &id.term.to_be_bytes(), &id.leader.0].concat();
        self.put(Space::Entries, key([group.0, id.index]), value);
    }

    /// A change of the cluster.
    pub(super) fn cluster(&mut self, change: &ClusterChange) {
        for (name, value) in &change.set {
            let value = value.as_ref().map(Value::to_string);
            self.own(&format!("{CLUSTER}{name}"), value.as_deref());
        }
    }
}

fn decode_entry(key: &[u8], value: &[u8]) -> Result<(EntryId, Place), StoreError> {
    let read = || {
        let index = u64::from_be_bytes(*key.get(8..)?.as_array()?);
        let (span, rest) = value.split_first_chunk()?;
        let (term, leader) = rest.split_first_chunk()?;
        let (term, leader) = (u64::from_be_bytes(*term), NodeId(*leader.as_array()?));
        Some((EntryId { term, leader, index }, Place::decode(span)))
    };
    read().ok_or_else(|| malformed("the row of an entry"))
}

impl Index {
    /// The groups as the index knows them.
    pub(super) fn groups(&self) -> Result<BTreeMap<Group, GroupLog>, StoreError> {
        let mut groups = BTreeMap::new();
        for found in self.space(Space::Own).prefix(GROUP) {
            let (name, value) = found.into_inner().map_err(unreadable)?;
            let group = str::from_utf8(&name[GROUP.len()..]).ok().and_then(|name| name.parse::<Group>().ok());
            let group = group.ok_or_else(|| malformed("the name of a group"))?;
            let GroupRow { vote, membership } = from_json(&value, "a group")?;
            let membership = membership.map(|(id, membership)| (id, Arc::new(membership)));
            let last = self.last(Space::Entries, key([group.0, 0])..key([group.0, u64::MAX]))?;
            let applied = last.map(|(key, value)| decode_entry(&key, &value)).transpose()?.map(|(id, _)| id);
            groups.insert(group, GroupLog { vote, committed: applied, applied, membership, ..GroupLog::default() });
        }
        Ok(groups)
    }

    /// Where an applied entry stands.
    pub(super) fn entry(&self, group: Group, index: u64) -> Result<Option<(EntryId, Place)>, StoreError> {
        let key = key([group.0, index]);
        self.get(Space::Entries, &key)?.map(|value| decode_entry(&key, &value)).transpose()
    }

    /// What the cluster knows, by name.
    pub(super) fn cluster(&self) -> Result<Known, StoreError> {
        let read = |found: fjall::Guard| {
            let (name, value) = found.into_inner().map_err(unreadable)?;
            let name = str::from_utf8(&name[CLUSTER.len()..]).map_err(|_| malformed("a name in the cluster"))?;
            Ok((name.to_owned(), from_json(&value, "what the cluster knows")?))
        };
        self.space(Space::Own).prefix(CLUSTER).map(read).collect::<Result<_, _>>().map(Known::of)
    }
}

/// Reads an entry from the log. `erasure` tells what is left of a transaction of a chain that was erased here.
pub(super) fn read_entry(
    reader: &Reader,
    id: EntryId,
    span: Place,
    erasure: impl Fn(Hash, count::Index) -> Result<Option<Erasure>, StoreError>,
) -> Result<Entry, StoreError> {
    let mut records = reader.records(span)?.into_iter().map(|(_, record)| record).peekable();
    let head = records.next().map(|record| GroupRecord::decode(record.plain())).transpose()?.flatten();
    let Some(GroupRecord::Entry(head)) = head else { return Err(malformed("where an entry stands")) };
    if head.id != id {
        return Err(malformed("where an entry stands"));
    }
    let mut effects = Vec::new();
    while let Some(record) = records.next() {
        let mut notes = BTreeMap::new();
        while let Some(next) = records.peek()
            && let Content::ErasedBefore(note) = effects::decode(next.plain())?
        {
            notes.insert(note.index, note.erasure);
            records.next();
        }
        let effect = LogRecord::read(&record, |at| {
            let run = parse_run(record.plain())?;
            let index = count::Index::new(run.first.get() + at as u64);
            let known =
                notes.get(&index).copied().map_or_else(|| erasure(run.chain, index), |known| Ok(Some(known)))?;
            let unknown =
                || StoreError::Damaged(format!("transaction {index}: its data is zeros, but it was not erased"));
            known.ok_or_else(unknown)
        });
        effects.push(effect?);
    }
    Ok(Entry { id, said: head.said(|| Ok(effects))? })
}

/// Before the name of a chain, in what the cluster knows, the id of the group that keeps it.
pub const CHAIN_PLACE: &str = "chain ";

/// The name of what the node that leads knew when it had the others compare that with what they know.
const COMPARISON: &str = "comparison";

/// Before a name in what the cluster knows, its row in the index.
const CLUSTER: &str = "cluster ";

/// A change of what the cluster knows, which all of its nodes have: named values.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClusterChange {
    /// What must be so, or nothing is changed; `null` for what is not there.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub expect: BTreeMap<String, Option<Value>>,
    /// What is so then; `null` removes.
    pub set: BTreeMap<String, Option<Value>>,
}

impl ClusterChange {
    /// From what an entry says.
    ///
    /// # Errors
    /// It is none of this program's.
    pub(super) fn parse(json: &[u8]) -> Result<ClusterChange, StoreError> {
        serde_json::from_slice(json)
            .map_err(|_| StoreError::Damaged("the log has a change of the cluster that is malformed".into()))
    }

    /// Makes the change, and says whether it was as expected.
    pub(super) fn apply(&self, known: &mut Known) -> bool {
        let holds = |(name, value): (&String, &Option<Value>)| known.values.get(name) == value.as_ref();
        if !self.expect.iter().all(holds) {
            return false;
        }
        self.set.iter().for_each(|(name, value)| known.set(name, value.as_ref()));
        true
    }

    /// Refuses a [comparison](Known::comparison), as the entry of this index, where this node knows something else than the one that
    /// leads. One of the two is wrong, and nobody can tell which.
    ///
    /// # Errors
    /// It does.
    pub(super) fn check(&self, known: &Known, index: u64) -> Result<(), StoreError> {
        match self.set.get(COMPARISON) {
            // What came between is not in it.
            Some(Some(led)) if led["index"] == index && led["digest"] != json!(known.digest()) => {
                Err(StoreError::Damaged(
                    "what this node knows of the cluster differs from what the node that leads it knows: stop this node, take it \
                     out with \"qbc cluster leave ID --lost\" at another one, and join a new one"
                        .into(),
                ))
            }
            _ => Ok(()),
        }
    }
}

/// What the cluster knows.
#[derive(Clone, Debug, Default)]
pub struct Known {
    values: BTreeMap<String, Value>,
    /// How many chains each group has.
    chains: HashMap<Group, usize>,
}

impl Known {
    pub(super) fn of(values: BTreeMap<String, Value>) -> Known {
        let mut known = Known::default();
        values.iter().for_each(|(name, value)| known.set(name, Some(value)));
        known
    }

    fn set(&mut self, name: &str, value: Option<&Value>) {
        let before = match value {
            Some(value) => self.values.insert(name.to_owned(), value.clone()),
            None => self.values.remove(name),
        };
        if name.starts_with(CHAIN_PLACE) {
            if let Some(group) = before.as_ref().and_then(group_in) {
                *self.chains.entry(group).or_default() -= 1;
            }
            if let Some(group) = value.and_then(group_in) {
                *self.chains.entry(group).or_default() += 1;
            }
        }
    }

    /// Makes a change, and says whether it was as expected.
    #[cfg(test)]
    pub(crate) fn change(&mut self, change: &ClusterChange) -> bool {
        change.apply(self)
    }

    /// The change that has all nodes compare what they know with this, if it is the next one, with this index. Nothing where the last one
    /// was that, too.
    pub(super) fn comparison(&self, index: u64) -> Option<ClusterChange> {
        let is_compared = self.values.get(COMPARISON).is_some_and(|last| last["index"] == index - 1);
        let comparison = json!({"index": index, "digest": self.digest()});
        (!is_compared).then(|| ClusterChange {
            set: BTreeMap::from([(COMPARISON.into(), Some(comparison))]),
            ..ClusterChange::default()
        })
    }

    /// The hash of all values but what was compared last.
    fn digest(&self) -> Hash {
        let mut all = Vec::new();
        for (name, value) in self.values.iter().filter(|(name, _)| *name != COMPARISON) {
            all.extend(json::canonical(&json!([name, value])));
        }
        hash::leaf(&all)
    }

    /// The value of this name.
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.values.get(name)
    }

    /// All values but the places of chains, which are many.
    pub fn but_chains(&self) -> impl Iterator<Item = (&str, &Value)> {
        let after: String = [CHAIN_PLACE.trim_end(), "!"].concat();
        let (before, after) = (self.values.range(..CHAIN_PLACE.to_owned()), self.values.range(after..));
        before.chain(after).map(|(name, value)| (name.as_str(), value))
    }

    /// The group that keeps a chain of this name.
    pub fn place_of(&self, name: &str) -> Option<Group> {
        if self.values.is_empty() {
            return None;
        }
        self.values.get(&format!("{CHAIN_PLACE}{name}")).and_then(group_in)
    }

    /// How many chains each group has.
    pub fn chains(&self) -> &HashMap<Group, usize> {
        &self.chains
    }
}

fn group_in(value: &Value) -> Option<Group> {
    value.as_str()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nodes_know_is_compared_where_nothing_came_between() {
        let known = |note: u64| Known::of([("note".to_owned(), json!(note))].into());
        let (mut led, other) = (known(1), known(2));
        let comparison = led.comparison(5).unwrap();
        assert!(comparison.check(&led, 5).is_ok());
        assert!(comparison.check(&other, 5).is_err());
        assert!(comparison.check(&other, 6).is_ok(), "the node that leads had not seen what came between");
        assert!(comparison.apply(&mut led));
        assert!(led.comparison(6).is_none(), "nothing has changed");
        assert!(led.comparison(7).unwrap().check(&known(1), 7).is_ok(), "what was compared is no part of it");
    }
}
