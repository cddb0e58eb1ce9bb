//! The screen, drawn on a terminal for tests.

use std::time::{Duration, Instant};

use ratatui::{
    Terminal,
    backend::TestBackend,
    buffer::Buffer,
    crossterm::event::{KeyCode, KeyEvent, KeyModifiers},
    style::Color,
};
use serde_json::{Value, json};

use super::{
    draw::screen,
    state::{Health, Message, News, Page, Panel, Popup, State, TAIL},
};
use crate::cli::tail::Event;

fn buffer(state: &State, width: u16, height: u16) -> Buffer {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| screen(frame, state)).unwrap();
    terminal.backend().buffer().clone()
}

/// The screen as text.
fn shown(state: &State, width: u16, height: u16) -> String {
    let buffer = buffer(state, width, height);
    let line = |line: &[ratatui::buffer::Cell]| line.iter().map(|cell| cell.symbol()).collect::<String>();
    let lines: Vec<String> =
        buffer.content.chunks(width.into()).map(|cells| line(cells).trim_end().to_owned()).collect();
    lines.join("\n")
}

fn press(state: &mut State, keys: &[KeyCode]) -> bool {
    keys.iter().all(|key| state.press(KeyEvent::new(*key, KeyModifiers::NONE)))
}

fn type_in(state: &mut State, text: &str) {
    text.chars().for_each(|letter| assert!(press(state, &[KeyCode::Char(letter)])));
}

fn chain(name: &str, size: u64) -> Value {
    let hash = format!("{:064x}", 0xabcd_0000 + size);
    json!({"name": name, "stats": {"length": size / 10 + 1, "size": size, "pooled": size % 10, "hash": hash}})
}

fn page(at: Instant, chains: &[Value]) -> Page {
    let chains = chains.iter().map(|chain| serde_json::from_value(chain.clone()).unwrap()).collect();
    Page { at, chains, is_of_list: true, is_last: true }
}

fn transaction(index: u64, data: Value) -> Event {
    let transaction = json!({"index": index, "id": format!("order-{index}"), "timestamp": "2026-11-22T12:00:00.123456Z", "data": data});
    Event { kind: "transaction".into(), data: serde_json::to_vec(&transaction).unwrap() }
}

fn hear(state: &mut State, events: Vec<Event>) {
    let chain = state.chosen().clone();
    state.take(Message::Tail(chain, News::Events(events)));
}

fn cluster() -> Value {
    let node = |number: u64, state: &str| {
        json!({"id": format!("{number}").repeat(64), "host": format!("localhost:500{number}"), "state": state,
            "version": "0.1.0", "leads": 1, "keeps": 2, "bytes": 123_456})
    };
    let replica =
        |number: u64, lag: u64| json!({"node": format!("{number}").repeat(64), "role": "follower", "lag": lag});
    json!({
        "id": "c".repeat(64), "busy": ["the group meta moves to localhost:5003"],
        "nodes": [node(1, "live"), node(2, "live"), node(3, "down")],
        "groups": [
            {"id": "meta", "leader": "1".repeat(64), "term": 3, "chains": 0, "replicas": [replica(1, 0), replica(2, 0), replica(3, 17)]},
            {"id": "group-2", "leader": null, "term": 4, "chains": 2, "replicas": [replica(1, 0), replica(3, 0)]},
        ],
    })
}

/// Of a node with two chains, with what has happened on one.
fn sample() -> State {
    let start = Instant::now();
    let mut state = State::new("http://localhost:5000".into(), "orders".into(), start, true);
    state.take(Message::Health(Health::Ready(Vec::new()), None));
    state.take(Message::Chains(page(start, &[chain("orders", 12_300), chain("qbc", 1)])));
    let frozen =
        json!({"name": "qbc", "stats": {"length": 1, "size": 1, "pooled": 0, "hash": "00ff".repeat(16), "frozen": 0}});
    state.take(Message::Chains(page(start + Duration::from_secs(2), &[chain("orders", 12_345), frozen])));
    let quant = json!({"index": 1234, "size": 12_341, "hash": "beef".repeat(16)});
    let quant = Event { kind: "quant".into(), data: serde_json::to_vec(&quant).unwrap() };
    let mut events: Vec<Event> = (12_300..12_341).map(|index| transaction(index, json!({"n": index}))).collect();
    events.push(quant);
    events.extend((12_341..12_345).map(|index| transaction(index, json!({"total": "19.90", "order": index}))));
    hear(&mut state, events);
    state
}

fn sample_of_cluster() -> State {
    let mut state = sample();
    state.take(Message::Cluster(serde_json::from_value(cluster()).unwrap()));
    state
}

#[test]
fn the_screen_shows_the_node_its_chains_and_the_tail() {
    let screen = shown(&sample(), 80, 24);
    let has = |part: &str| assert!(screen.contains(part), "{part}: {screen}");
    has("http://localhost:5000  ready  2 chains, 12,346 transactions, 23/s");
    has("> orders    1,235        12,345        5          23  0000000000000000");
    has("frozen");
    has("12344 12:00:00.123 order-12344 {\"order\":12344,\"total\":\"19.90\"}");
    has("quant 1234 at size 12,341, hash beefbeefbeefbeef");
    assert!(!screen.contains("12300 12:00"), "the newest are shown: {screen}");
}

#[test]
fn the_cluster_is_shown_where_there_is_one() {
    let mut state = sample_of_cluster();
    let screen = shown(&state, 80, 30);
    for part in [
        "2 of 3 nodes live, 2 groups, 1 without a leader, 1 lagging",
        "localhost:5003  down",
        "none",
        "33333333 (17)",
        "moves to localhost:5003",
    ] {
        assert!(screen.contains(part), "{part}: {screen}");
    }
    // A node that was never joined is a cluster of one, of which there is nothing to tell.
    press(&mut state, &[KeyCode::Tab, KeyCode::Tab]);
    assert_eq!(state.panel, Panel::Cluster);
    let mut alone = cluster();
    alone["nodes"].as_array_mut().unwrap().truncate(1);
    state.take(Message::Cluster(serde_json::from_value(alone).unwrap()));
    assert!(state.panel == Panel::Chains && !shown(&state, 80, 30).contains("Cluster"));
}

#[test]
fn a_node_that_is_away_or_not_ready_is_said_and_waited_for() {
    let mut state = sample();
    state.take(Message::Health(Health::Away("no node answers".into()), None));
    let start = state.now;
    assert!(!state.pass(start + Duration::from_millis(900)), "nothing is to be drawn");
    assert!(state.pass(start + Duration::from_secs(7)));
    let screen = shown(&state, 80, 24);
    assert!(screen.contains("AWAY for 7 s") && screen.contains("no node answers. Asking again"), "{screen}");
    assert!(screen.contains("12,345") && !screen.contains("23/s"), "what was read stays, but not the rates: {screen}");
    state.take(Message::Health(Health::NotReady("the chain \"orders\" is damaged".into()), None));
    let screen = shown(&state, 80, 24);
    assert!(screen.contains("NOT READY") && screen.contains("the chain \"orders\" is damaged"), "{screen}");
    let warnings = (0..20).map(|number| format!("thing {number} is odd")).collect();
    state.take(Message::Health(Health::Ready(warnings), Some("http://localhost:5001".into())));
    let screen = shown(&state, 80, 24);
    assert!(screen.starts_with("http://localhost:5001  ready, with warnings"), "{screen}");
    assert!(screen.contains("warning: thing 0 is odd") && screen.contains("… 15 more lines"), "{screen}");
}

/// Whatever stands in a chain or comes from a node: no cell of the screen has what a terminal would obey.
#[test]
fn texts_of_others_command_no_terminal() {
    let evil = "\u{1b}[2J\u{9b}31m\u{7}\n\u{202e}";
    let mut state = sample_of_cluster();
    let mut status = cluster();
    (status["nodes"][0]["version"], status["busy"][0]) = (json!(evil), json!(evil));
    state.take(Message::Cluster(serde_json::from_value(status).unwrap()));
    state.take(Message::Health(Health::Ready(vec![evil.into()]), None));
    let damaged = json!({"name": "orders", "damage": evil});
    let mirror = json!({"name": "qbc", "stats": {"length": 1, "size": 1, "pooled": 0, "hash": evil, "mirror": {"state": evil, "lag": 3}}});
    state.take(Message::Chains(page(Instant::now(), &[damaged, mirror])));
    let mut event = transaction(1, json!({"a": evil}));
    event.data = String::from_utf8(event.data).unwrap().replace("order-1", &"\u{9b}".repeat(3)).into_bytes();
    hear(&mut state, vec![event]);
    press(&mut state, &[KeyCode::Tab, KeyCode::Up]);
    for keys in [&[][..], &[KeyCode::Enter]] {
        press(&mut state, keys);
        for cell in &buffer(&state, 160, 40).content {
            let is_harmless = |char: char| !char.is_control() && char != '\u{202e}';
            assert!(cell.symbol().chars().all(is_harmless), "{:?}", cell.symbol());
        }
        assert!(shown(&state, 160, 40).contains("\\u009b31m"), "it is shown as what it is");
    }
}

#[test]
fn without_colours_there_are_none() {
    let has_colours = |state: &State| {
        buffer(state, 160, 40).content.iter().any(|cell| cell.fg != Color::Reset || cell.bg != Color::Reset)
    };
    let mut state = sample_of_cluster();
    state.take(Message::Health(Health::NotReady("it is odd".into()), None));
    assert!(has_colours(&state));
    state.has_colours = false;
    for keys in [&[][..], &[KeyCode::Char('?')], &[KeyCode::Esc, KeyCode::Tab, KeyCode::Up, KeyCode::Enter]] {
        press(&mut state, keys);
        assert!(!has_colours(&state), "{}", shown(&state, 160, 40));
    }
}

#[test]
fn every_size_of_a_terminal_is_drawn() {
    let mut states = vec![sample(), sample_of_cluster()];
    for keys in [&[KeyCode::Char('?')][..], &[KeyCode::Tab, KeyCode::Up, KeyCode::Enter], &[KeyCode::Char('/')]] {
        let mut state = sample_of_cluster();
        press(&mut state, keys);
        states.push(state);
    }
    let mut away = sample_of_cluster();
    away.take(Message::Health(Health::Away("no node answers at this place or at any other one".into()), None));
    states.push(away);
    for state in &states {
        for (width, height) in (1..60).flat_map(|width| (1..30).map(move |height| (width, height))) {
            shown(state, width, height);
        }
        shown(state, 400, 200);
    }
    assert!(shown(&states[0], 19, 10).contains("too small"));
    // Where there is no room for all panels, there is one, and Tab shows the others.
    let low = shown(&states[1], 40, 10);
    assert!(low.contains("Chains") && !low.contains("Tail"), "{low}");
    press(&mut states[1], &[KeyCode::Tab]);
    let low = shown(&states[1], 40, 10);
    assert!(low.contains("Tail of orders") && !low.contains("Chains"), "{low}");
}

/// Ten thousand chains come in pages, and the screen has those around the chosen one.
#[test]
fn many_chains_come_in_pages() {
    let start = Instant::now();
    let mut state = State::new("http://localhost:5000".into(), "chain-0000".into(), start, true);
    let all: Vec<Value> = (0..10_000).map(|number| chain(&format!("chain-{number:04}"), number)).collect();
    for (number, chains) in all.chunks(500).enumerate() {
        assert!(!state.has_list());
        state.take(Message::Chains(Page { is_last: number == 19, ..page(start, chains) }));
    }
    assert!(state.has_list() && state.shown().len() == 10_000);
    press(&mut state, &[KeyCode::End]);
    let screen = shown(&state, 80, 24);
    assert!(screen.contains("Chains 10,000 of 10,000") && screen.contains("> chain-9999"), "{screen}");
    assert_eq!(state.before_chosen(50).as_deref(), Some("chain-9948"));
    press(&mut state, &[KeyCode::PageUp]);
    assert_eq!(&**state.chosen(), "chain-9989");

    // Those around the chosen one come more often than the list, and are no reason to take others for gone.
    let around = page(start + Duration::from_secs(1), &[chain("chain-9989", 19_989)]);
    state.take(Message::Chains(Page { is_of_list: false, ..around }));
    assert_eq!(state.row("chain-9989").and_then(|row| row.rate), Some(10_000.0));
    assert_eq!(state.shown().len(), 10_000);
    press(&mut state, &[KeyCode::Char('s')]);
    assert_eq!(&*state.shown()[0], "chain-9989", "the one that grows is first");
    // A whole list without them is one.
    state.take(Message::Chains(page(start + Duration::from_secs(2), &all[..2])));
    assert_eq!((state.shown().len(), &**state.chosen()), (2, "chain-0000"));
}

#[test]
fn rates_are_those_between_two_readings() {
    let start = Instant::now();
    let mut state = State::new("http://localhost:5000".into(), "a".into(), start, true);
    let mut read = |seconds: f64, size: u64| {
        state.take(Message::Chains(page(start + Duration::from_secs_f64(seconds), &[chain("a", size)])));
        state.row("a").unwrap().rate
    };
    assert_eq!(read(0.0, 100), None);
    assert_eq!(read(2.0, 150), Some(25.0));
    assert_eq!(read(2.01, 160), Some(25.0), "two readings of one moment say nothing");
    assert_eq!(read(3.01, 160), Some(0.0));
    assert_eq!(read(4.0, 5), None, "another chain of this name");
}

#[test]
fn keys_choose_filter_and_leave() {
    let mut state = sample();
    let chosen = |state: &State| state.chosen().to_string();
    press(&mut state, &[KeyCode::Char('j')]);
    assert_eq!(chosen(&state), "qbc");
    assert!(state.tail.events.is_empty(), "what happens on another chain is not shown any more");
    press(&mut state, &[KeyCode::Down, KeyCode::Up]);
    assert_eq!(chosen(&state), "orders");
    press(&mut state, &[KeyCode::End, KeyCode::Char('/')]);
    type_in(&mut state, "Q");
    assert_eq!((state.filter.as_str(), state.shown().len(), &*chosen(&state)), ("q", 1, "qbc"));
    type_in(&mut state, "?");
    assert!(shown(&state, 80, 24).contains("no chain has this in its name"), "{}", shown(&state, 80, 24));
    press(&mut state, &[KeyCode::Backspace, KeyCode::Enter]);
    let screen = shown(&state, 80, 24);
    assert!(screen.contains("Chains 1 of 1 with \"q\", of 2"), "{screen}");
    assert!(press(&mut state, &[KeyCode::Esc]));
    assert_eq!(state.shown().len(), 2);
    assert!(press(&mut state, &[KeyCode::Char('?')]) && shown(&state, 80, 24).contains("this help"));
    assert!(press(&mut state, &[KeyCode::Char('q')]) && state.popup.is_none(), "a key closes the help");
    for key in [KeyCode::Esc, KeyCode::Char('q')] {
        assert!(!press(&mut sample(), &[key]));
    }
    let interrupt = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
    press(&mut state, &[KeyCode::Char('/')]);
    assert!(!state.press(interrupt), "Ctrl-C leaves wherever one is");
}

#[test]
fn a_transaction_is_chosen_and_shown_whole() {
    let mut state = sample();
    press(&mut state, &[KeyCode::Enter, KeyCode::Up, KeyCode::Up]);
    hear(&mut state, (12_345..12_350).map(|index| transaction(index, json!(index))).collect());
    let screen = shown(&state, 80, 24);
    assert!(screen.contains("> 12343 ") && screen.contains("stopped"), "it stays while others come: {screen}");
    press(&mut state, &[KeyCode::Enter]);
    let screen = shown(&state, 80, 24);
    assert!(screen.contains("Transaction 12343") && screen.contains("\"total\": \"19.90\""), "{screen}");
    press(&mut state, &[KeyCode::Down]);
    assert_eq!(state.popup, Some(Popup::Event(1)));
    assert!(press(&mut state, &[KeyCode::Esc, KeyCode::End]));
    assert!(shown(&state, 80, 24).contains("12349 12:00:00.123"), "it follows again");
}

#[test]
fn a_flood_is_bounded_and_what_is_erased_goes() {
    let mut state = sample();
    hear(&mut state, (0..3 * TAIL as u64).map(|index| transaction(index, json!("secret"))).collect());
    hear(&mut state, (0..3).map(|index| transaction(index + 3 * TAIL as u64, json!("secret"))).collect());
    assert_eq!(state.tail.events.len(), TAIL);
    let last = 3 * TAIL as u64 + 2;
    let erasure = json!({"index": last + 1, "kind": "erasure", "timestamp": "2026-11-22T12:00:00.123456Z", "data": {"index": last, "reason": "asked for"}});
    hear(&mut state, vec![Event { kind: "transaction".into(), data: serde_json::to_vec(&erasure).unwrap() }]);
    let screen = shown(&state, 80, 24);
    assert!(screen.contains(&format!("order-{last} (erased)")) && screen.contains("asked for"), "{screen}");
    press(&mut state, &[KeyCode::Tab, KeyCode::Up, KeyCode::Up, KeyCode::Enter]);
    assert_eq!(state.whole().as_deref(), Some("(erased)"));
    // What comes of a chain that is not chosen any more is dropped, and what cannot be read is passed over.
    state.take(Message::Tail("other".into(), News::Start));
    hear(&mut state, vec![Event { kind: "transaction".into(), data: b"{".to_vec() }]);
    assert_eq!(state.tail.events.len(), TAIL);
}
