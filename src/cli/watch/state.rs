//! What `qbc watch` knows and shows: changed by what the node answers and by keys, and by nothing else.

use std::{
    collections::{BTreeMap, VecDeque},
    mem,
    sync::Arc,
    time::Instant,
};

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use serde::{Deserialize, de::IgnoredAny};
use serde_json::value::RawValue;

use crate::cli::{
    cluster::Status,
    output::harmless,
    pretty::{Printer, Style},
    tail::Event,
};

/// Events of the chosen chain that are kept.
pub const TAIL: usize = 500;

/// Bytes of a transaction that are kept, to be shown whole.
const MAX_WHOLE: usize = 32 << 10;

/// Letters of a transaction's data in its line. No screen is wider.
const MAX_LINE: usize = 1_000;

/// The keys, and what they do.
pub const KEYS: &[(&str, &str)] = &[
    ("q, Ctrl-C", "quit"),
    ("Tab, ←, →", "the next panel, the one before"),
    ("↑, ↓, j, k", "choose a chain, or in the tail a transaction"),
    ("PgUp, PgDn", "ten at a time"),
    ("Home, End", "the first, the last; also g, G"),
    ("Enter", "to the tail; there: all of the transaction"),
    ("/", "only chains with these letters in the name"),
    ("s", "order by name, rate, pooled, transactions"),
    ("Esc", "back, at last quit"),
    ("?", "this help"),
];

/// Rows that a key for pages goes on by.
const PAGE: isize = 10;

/// What the node has answered.
pub enum Message {
    /// How it is, and the URL of the one of several nodes that has answered, if any has.
    Health(Health, Option<String>),
    /// Some of its chains.
    Chains(Page),
    /// Why it does not list them.
    NoChains(String),
    /// How its cluster stands.
    Cluster(Status),
    /// About the chain with this name.
    Tail(Arc<str>, News),
}

/// How a node is.
#[derive(Debug, PartialEq, Eq)]
pub enum Health {
    /// Nobody has asked yet.
    Unknown,
    /// It takes reads and writes, with these warnings.
    Ready(Vec<String>),
    /// It answers, and something is wrong.
    NotReady(String),
    /// It does not answer.
    Away(String),
}

/// Chains as the node lists them.
pub struct Page {
    /// When they were read.
    pub at: Instant,
    /// The chains, by name.
    pub chains: Vec<Listed>,
    /// Whether it is one of the pages that together are the list. Others show only how some chains are now.
    pub is_of_list: bool,
    /// Whether the list ends with it.
    pub is_last: bool,
}

/// A chain in the list of all; one that could not be loaded has its name and what is wrong with it.
#[derive(Deserialize)]
pub struct Listed {
    /// Its name.
    pub name: String,
    stats: Option<Stats>,
    damage: Option<String>,
}

#[derive(Deserialize)]
struct Stats {
    length: u64,
    size: u64,
    pooled: u64,
    hash: String,
    damage: Option<String>,
    rollback: Option<String>,
    frozen: Option<u64>,
    mirror: Option<Mirror>,
}

#[derive(Deserialize)]
struct Mirror {
    state: String,
    lag: Option<u64>,
}

/// What is heard of the chosen chain.
pub enum News {
    /// It is followed from here.
    Start,
    /// What has happened.
    Events(Vec<Event>),
    /// Nothing is heard any more, and why.
    Lost(String),
    /// It is heard again.
    Connected,
}

/// A chain, as a line.
pub struct Row {
    /// Quants.
    pub length: u64,
    /// Transactions.
    pub size: u64,
    /// Transactions that no quant seals yet.
    pub pooled: u64,
    /// The newest quant's hash.
    pub head: String,
    /// What is to be said of it.
    pub note: String,
    /// Whether it is damaged.
    pub is_wrong: bool,
    /// Transactions a second, between the last two readings.
    pub rate: Option<f64>,
    at: Instant,
    /// In which reading of the whole list it was seen.
    list: u64,
}

/// In which order the chains are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// By name.
    Name,
    /// Those that grow fastest first.
    Rate,
    /// Those with the most pooled transactions first.
    Pooled,
    /// The largest first.
    Size,
}

impl Order {
    /// In words.
    pub fn name(self) -> &'static str {
        match self {
            Order::Name => "name",
            Order::Rate => "rate",
            Order::Pooled => "pooled",
            Order::Size => "transactions",
        }
    }

    fn next(self) -> Order {
        match self {
            Order::Name => Order::Rate,
            Order::Rate => Order::Pooled,
            Order::Pooled => Order::Size,
            Order::Size => Order::Name,
        }
    }
}

/// A part of the screen that keys go to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Panel {
    /// The list of chains.
    Chains,
    /// What happens on the chosen one.
    Tail,
    /// The nodes and groups.
    Cluster,
}

/// What lies over the panels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Popup {
    /// The keys, from this line on.
    Help(usize),
    /// All of an event, from this line of it on.
    Event(usize),
}

/// Something that has happened on the chosen chain.
pub enum Line {
    /// A transaction.
    Transaction {
        /// Its index.
        index: u64,
        /// Its time of day.
        time: String,
        /// The client's name for it, and what kind it is where it is none of a client.
        label: String,
        /// Its data, or what is said in place of it.
        data: String,
    },
    /// A quant.
    Quant {
        /// Its index.
        index: u64,
        /// How many transactions the chain has up to it.
        size: u64,
        /// Its hash.
        hash: String,
    },
}

/// What has happened on the chosen chain.
#[derive(Default)]
pub struct Tail {
    /// The newest events, oldest first, each with its JSON where that is not too large.
    pub events: VecDeque<(Line, Option<Vec<u8>>)>,
    /// How many were dropped before them.
    dropped: usize,
    /// The one that is chosen, counted from the beginning; without one, the newest are shown.
    chosen: Option<usize>,
    /// Why nothing is heard.
    pub lost: Option<String>,
}

impl Tail {
    /// The place of the chosen one among the events.
    pub fn chosen(&self) -> Option<usize> {
        // Where it was dropped, the oldest takes its place.
        self.chosen.map(|chosen| chosen.saturating_sub(self.dropped)).filter(|&place| place < self.events.len())
    }

    fn take(&mut self, news: News) {
        match news {
            News::Start => *self = Tail { lost: self.lost.take(), ..Tail::default() },
            News::Lost(reason) => self.lost = Some(reason),
            News::Connected => self.lost = None,
            News::Events(events) => {
                self.lost = None;
                // Of a flood, what nobody could read is not even looked at.
                let passed = events.len().saturating_sub(TAIL);
                for Event { kind, data } in events.into_iter().skip(passed) {
                    self.push(&kind, data);
                }
                let excess = self.events.len().saturating_sub(TAIL);
                self.events.drain(..excess);
                self.dropped += excess;
            }
        }
    }

    fn push(&mut self, kind: &str, data: Vec<u8>) {
        let line = match kind {
            "transaction" => self.transaction(&data),
            "quant" => quant(&data),
            _ => None,
        };
        if let Some(line) = line {
            self.events.push_back((line, Some(data).filter(|data| data.len() <= MAX_WHOLE)));
        }
    }

    fn transaction(&mut self, data: &[u8]) -> Option<Line> {
        #[derive(Deserialize)]
        struct Transaction<'a> {
            index: u64,
            id: Option<String>,
            kind: Option<String>,
            timestamp: String,
            #[serde(borrow)]
            data: Option<&'a RawValue>,
            erased: Option<IgnoredAny>,
        }
        #[derive(Deserialize)]
        struct Erasure {
            index: u64,
        }
        let Transaction { index, id, kind, timestamp, data, erased } = serde_json::from_slice(data).ok()?;
        if kind.as_deref() == Some("erasure")
            && let Some(Erasure { index }) = data.and_then(|data| serde_json::from_str(data.get()).ok())
        {
            self.forget(index);
        }
        let kind = kind.map(|kind| format!("[{kind}]"));
        let label = harmless(&[kind, id].into_iter().flatten().collect::<Vec<_>>().join(" "));
        let data = match (erased, data) {
            (Some(_), _) => ERASED.into(),
            (None, data) => harmless(&data.map_or("", RawValue::get).chars().take(MAX_LINE).collect::<String>()),
        };
        Some(Line::Transaction { index, time: time_of_day(&timestamp), label, data })
    }

    /// What is erased is not shown any longer.
    fn forget(&mut self, erased: u64) {
        for (line, whole) in &mut self.events {
            match line {
                Line::Transaction { index, data, .. } if *index == erased => {
                    (*data, *whole) = (ERASED.into(), None);
                }
                _ => {}
            }
        }
    }
}

const ERASED: &str = "(erased)";

/// The time of day, to milliseconds, of a timestamp such as 2026-11-22T12:00:00.000000Z.
fn time_of_day(timestamp: &str) -> String {
    harmless(timestamp.get(11..23).unwrap_or(timestamp))
}

fn quant(data: &[u8]) -> Option<Line> {
    #[derive(Deserialize)]
    struct Quant {
        index: u64,
        size: u64,
        hash: String,
    }
    let Quant { index, size, hash } = serde_json::from_slice(data).ok()?;
    Some(Line::Quant { index, size, hash: harmless(&hash) })
}

/// What the screen shows.
pub struct State {
    /// Where the node is asked.
    pub node: String,
    /// How it is.
    pub health: Health,
    /// When it last answered.
    pub answered: Instant,
    /// What time it is.
    pub now: Instant,
    /// Why the chains are not listed.
    pub no_chains: Option<String>,
    /// How the cluster stands, where the node is not its only one.
    pub cluster: Option<Status>,
    /// How many lines of it are above the screen.
    pub cluster_skipped: usize,
    /// What happens on the chosen chain.
    pub tail: Tail,
    /// Where keys go.
    pub panel: Panel,
    /// What lies over the panels.
    pub popup: Option<Popup>,
    /// What a chain's name must contain to be shown.
    pub filter: String,
    /// Whether keys are letters of the filter.
    pub is_typing: bool,
    /// In which order the chains are.
    pub order: Order,
    /// Whether the screen has colours.
    pub has_colours: bool,
    chosen: Arc<str>,
    chains: BTreeMap<Arc<str>, Row>,
    /// The names that the filter leaves, in their order.
    shown: Vec<Arc<str>>,
    /// How many times the whole list was read.
    lists: u64,
}

impl State {
    /// Before anything was heard.
    pub fn new(node: String, chosen: Arc<str>, now: Instant, has_colours: bool) -> State {
        State {
            node,
            health: Health::Unknown,
            answered: now,
            now,
            no_chains: None,
            cluster: None,
            cluster_skipped: 0,
            tail: Tail::default(),
            panel: Panel::Chains,
            popup: None,
            filter: String::new(),
            is_typing: false,
            order: Order::Name,
            has_colours,
            chosen,
            chains: BTreeMap::new(),
            shown: Vec::new(),
            lists: 0,
        }
    }

    /// The name of the chosen chain.
    pub fn chosen(&self) -> &Arc<str> {
        &self.chosen
    }

    /// The names of the chains that are shown, in their order.
    pub fn shown(&self) -> &[Arc<str>] {
        &self.shown
    }

    /// The chain with this name.
    pub fn row(&self, name: &str) -> Option<&Row> {
        self.chains.get(name)
    }

    /// How many chains there are, transactions in all of them, and transactions a second.
    pub fn totals(&self) -> (usize, u64, Option<f64>) {
        let rows = self.chains.values();
        let rate = rows.clone().filter_map(|row| row.rate).reduce(|sum, rate| sum + rate);
        (self.chains.len(), rows.map(|row| row.size).sum(), rate)
    }

    /// Whether the whole list of chains was read.
    pub fn has_list(&self) -> bool {
        self.lists > 0
    }

    /// The place of the chosen chain among those that are shown.
    pub fn place(&self) -> Option<usize> {
        self.shown.iter().position(|name| *name == self.chosen)
    }

    /// The name so many places before the chosen one, from which on the chains around it can be listed.
    pub fn before_chosen(&self, places: usize) -> Option<Arc<str>> {
        self.chains.range(..self.chosen.clone()).rev().nth(places).map(|(name, _)| name.clone())
    }

    /// Takes what time it is. Whether the screen shows that.
    pub fn pass(&mut self, now: Instant) -> bool {
        let away = |now: Instant| now.saturating_duration_since(self.answered).as_secs();
        let is_shown = matches!(self.health, Health::Away(_)) && away(now) != away(self.now);
        self.now = now;
        is_shown
    }

    /// Takes what the node has answered.
    pub fn take(&mut self, message: Message) {
        match message {
            Message::Health(health, node) => {
                match health {
                    // Nobody knows them then.
                    Health::Away(_) => self.chains.values_mut().for_each(|row| row.rate = None),
                    _ => self.answered = self.now,
                }
                self.node = node.unwrap_or(mem::take(&mut self.node));
                self.health = health;
            }
            Message::Chains(page) => self.take_chains(page),
            Message::NoChains(reason) => self.no_chains = Some(reason),
            Message::Cluster(status) => {
                self.cluster = Some(status).filter(|status| status.nodes.len() > 1);
                if self.cluster.is_none() && self.panel == Panel::Cluster {
                    self.panel = Panel::Chains;
                }
            }
            // What was on its way when another chain was chosen is of no use any more.
            Message::Tail(chain, news) => {
                if chain == self.chosen {
                    self.tail.take(news);
                }
            }
        }
    }

    fn take_chains(&mut self, page: Page) {
        self.no_chains = None;
        for listed in page.chains {
            let name: Arc<str> = listed.name.as_str().into();
            let before = self.chains.get(&name);
            let list = before.map_or(self.lists, |before| if page.is_of_list { self.lists } else { before.list });
            let row = Row::of(listed, before, page.at, list);
            self.chains.insert(name, row);
        }
        if page.is_of_list && page.is_last {
            let lists = self.lists;
            self.chains.retain(|_, row| row.list == lists);
            self.lists += 1;
        }
        self.arrange();
    }

    /// Filters and orders the chains anew.
    fn arrange(&mut self) {
        let is_shown = |name: &str| name.contains(&self.filter);
        let mut shown: Vec<(&Arc<str>, &Row)> = self.chains.iter().filter(|(name, _)| is_shown(name)).collect();
        match self.order {
            Order::Name => {}
            Order::Rate => shown.sort_by(|(_, one), (_, other)| {
                other.rate.unwrap_or_default().total_cmp(&one.rate.unwrap_or_default())
            }),
            Order::Pooled => shown.sort_by_key(|(_, row)| std::cmp::Reverse(row.pooled)),
            Order::Size => shown.sort_by_key(|(_, row)| std::cmp::Reverse(row.size)),
        }
        self.shown = shown.into_iter().map(|(name, _)| name.clone()).collect();
        // A chain that is gone, or filtered away, is not chosen any more; before the whole list is there, it may come.
        if self.place().is_none()
            && self.has_list()
            && let Some(first) = self.shown.first().cloned()
        {
            self.choose(first);
        }
    }

    fn choose(&mut self, name: Arc<str>) {
        if name != self.chosen {
            self.chosen = name;
            self.tail = Tail::default();
        }
    }

    /// The event that is chosen.
    pub fn chosen_event(&self) -> Option<&Line> {
        self.tail.events.get(self.tail.chosen()?).map(|(line, _)| line)
    }

    /// All of it.
    pub fn whole(&self) -> Option<String> {
        Some(match self.tail.events.get(self.tail.chosen()?)? {
            (_, Some(data)) => {
                let mut shown = Vec::new();
                Printer::new(Style { indent: true, colours: false }).take(data, &mut shown);
                let text = String::from_utf8_lossy(&shown).into_owned();
                text.lines().map(harmless).collect::<Vec<_>>().join("\n")
            }
            (Line::Transaction { data, .. }, None) if data == ERASED => ERASED.into(),
            (Line::Transaction { index, .. } | Line::Quant { index, .. }, None) => {
                format!("It is too large to be kept here: qbc --chain {} get {index}", self.chosen)
            }
        })
    }

    /// Takes a key. False where the user leaves.
    pub fn press(&mut self, key: KeyEvent) -> bool {
        match key.code {
            KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => return false,
            _ if self.is_typing => self.type_filter(key.code),
            _ if self.popup.is_some() => self.press_in_popup(key.code),
            KeyCode::Char('q') => return false,
            KeyCode::Esc if self.tail.chosen.is_some() => self.tail.chosen = None,
            KeyCode::Esc if self.panel != Panel::Chains => self.panel = Panel::Chains,
            KeyCode::Esc if !self.filter.is_empty() => {
                self.filter.clear();
                self.arrange();
            }
            KeyCode::Esc => return false,
            KeyCode::Char('?' | 'h') | KeyCode::F(1) => self.popup = Some(Popup::Help(0)),
            KeyCode::Char('/') => (self.is_typing, self.panel) = (true, Panel::Chains),
            KeyCode::Char('s') => {
                self.order = self.order.next();
                self.arrange();
            }
            KeyCode::Tab | KeyCode::Right => self.panel = self.next_panel(1),
            KeyCode::BackTab | KeyCode::Left => self.panel = self.next_panel(self.panels().len() - 1),
            KeyCode::Enter if self.panel == Panel::Chains => self.panel = Panel::Tail,
            KeyCode::Enter if self.panel == Panel::Tail && !self.tail.events.is_empty() => {
                // It stays the same while others come.
                self.tail.chosen = self.tail.chosen.or((self.tail.dropped + self.tail.events.len()).checked_sub(1));
                self.popup = Some(Popup::Event(0));
            }
            code => {
                if let Some(rows) = rows_of(code) {
                    self.go(rows);
                }
            }
        }
        true
    }

    fn panels(&self) -> &'static [Panel] {
        let all = &[Panel::Chains, Panel::Tail, Panel::Cluster];
        if self.cluster.is_some() { all } else { &all[..2] }
    }

    fn next_panel(&self, by: usize) -> Panel {
        let panels = self.panels();
        let place = panels.iter().position(|panel| *panel == self.panel).unwrap_or(0);
        panels[(place + by) % panels.len()]
    }

    fn type_filter(&mut self, code: KeyCode) {
        match code {
            KeyCode::Enter => self.is_typing = false,
            KeyCode::Esc => {
                self.is_typing = false;
                self.filter.clear();
            }
            KeyCode::Backspace if self.filter.is_empty() => self.is_typing = false,
            KeyCode::Backspace => drop(self.filter.pop()),
            // Names of chains have no others.
            KeyCode::Char(letter) => self.filter.extend(letter.to_lowercase().filter(|letter| !letter.is_control())),
            KeyCode::Up | KeyCode::Down => self.go(if code == KeyCode::Up { -1 } else { 1 }),
            _ => {}
        }
        self.arrange();
    }

    fn press_in_popup(&mut self, code: KeyCode) {
        let lines = self.whole().map_or(0, |whole| whole.lines().count());
        let on = |skipped: usize, rows: isize| skipped.saturating_add_signed(rows).min(lines.saturating_sub(1));
        self.popup = match (self.popup, rows_of(code)) {
            (Some(Popup::Event(skipped)), Some(rows)) => Some(Popup::Event(on(skipped, rows))),
            (Some(Popup::Help(skipped)), Some(rows)) => {
                Some(Popup::Help(skipped.saturating_add_signed(rows).min(KEYS.len() - 1)))
            }
            _ => None,
        };
    }

    /// Goes on by so many rows in the panel where keys go.
    fn go(&mut self, rows: isize) {
        match self.panel {
            Panel::Chains => {
                let place = self.place().unwrap_or(0).saturating_add_signed(rows);
                let last = self.shown.len().saturating_sub(1);
                if let Some(name) = self.shown.get(place.min(last)).cloned() {
                    self.choose(name);
                }
            }
            Panel::Tail => {
                let place = self.tail.chosen().unwrap_or(self.tail.events.len()).saturating_add_signed(rows);
                // Behind the newest, it goes on to follow.
                self.tail.chosen = Some(place + self.tail.dropped).filter(|_| place < self.tail.events.len());
            }
            Panel::Cluster => {
                let lines = self.cluster.as_ref().map_or(0, |it| it.nodes.len() + it.groups.len() + it.busy.len());
                self.cluster_skipped = self.cluster_skipped.saturating_add_signed(rows).min(lines);
            }
        }
    }
}

/// How many rows a key goes on by.
fn rows_of(code: KeyCode) -> Option<isize> {
    Some(match code {
        KeyCode::Up | KeyCode::Char('k') => -1,
        KeyCode::Down | KeyCode::Char('j') => 1,
        KeyCode::PageUp => -PAGE,
        KeyCode::PageDown | KeyCode::Char(' ') => PAGE,
        KeyCode::Home | KeyCode::Char('g') => isize::MIN,
        KeyCode::End | KeyCode::Char('G') => isize::MAX,
        _ => return None,
    })
}

impl Row {
    fn of(listed: Listed, before: Option<&Row>, at: Instant, list: u64) -> Row {
        let Some(stats) = listed.stats else {
            let note = format!("damaged: {}", harmless(&listed.damage.unwrap_or_default()));
            let (head, rate) = (String::new(), None);
            return Row { length: 0, size: 0, pooled: 0, head, note, is_wrong: true, rate, at, list };
        };
        let is_wrong = stats.damage.is_some() || stats.rollback.is_some();
        let note = match (stats.damage, stats.rollback, stats.frozen, stats.mirror) {
            (Some(damage), ..) => format!("damaged: {damage}"),
            (_, Some(rollback), ..) => format!("takes no writes: {rollback}"),
            (.., Some(Mirror { state, lag })) => match lag {
                Some(lag) if lag > 0 => format!("mirror, {state}, lags by {lag}"),
                _ => format!("mirror, {state}"),
            },
            (_, _, Some(_), _) => "frozen".into(),
            _ => String::new(),
        };
        let (length, size, pooled) = (stats.length, stats.size, stats.pooled);
        // Two readings of one moment say nothing, and a chain that shrinks is another one.
        let rate = before.and_then(|before| {
            let seconds = at.saturating_duration_since(before.at).as_secs_f64();
            let grown = size.checked_sub(before.size)?;
            if seconds > 0.1 { Some(grown as f64 / seconds) } else { before.rate }
        });
        Row { length, size, pooled, head: harmless(&stats.hash), note: harmless(&note), is_wrong, rate, at, list }
    }
}
