//! The screen of `qbc watch`: what the state holds, as large as the terminal is. Nothing is kept from one drawing to the next.

use ratatui::{
    Frame,
    layout::{Constraint, Layout, Rect},
    style::{Color, Modifier, Style},
    text::{Line as Text, Span},
    widgets::{Block, Clear, Paragraph, Wrap},
};

use super::state::{Health, KEYS, Line, Panel, Popup, Row, State};
use crate::cli::{
    cluster::{GroupRow, rows_of_groups, rows_of_nodes},
    output::{harmless, table},
};

/// From this width on, the tail stands beside the chains.
const WIDE: u16 = 130;

/// Below this height, only the panel where keys go is shown.
const LOW: u16 = 16;

/// The height of the tail that a long list of nodes leaves.
const TAIL: u16 = 8;

/// The smallest screen.
const LEAST: (u16, u16) = (20, 4);

/// Digits of a hash that tell it from others, for people: proof of work makes up to 12 of them zero.
const DIGITS: usize = 16;

/// Draws the screen.
pub fn screen(frame: &mut Frame, state: &State) {
    let area = frame.area();
    if area.width < LEAST.0 || area.height < LEAST.1 {
        frame.render_widget("too small: q quits", area);
        return;
    }
    let notices = notices(state, area.width, usize::from(area.height / 4).clamp(1, 6));
    let [top, told, panels, bottom] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(notices.len() as u16),
        Constraint::Fill(1),
        Constraint::Length(1),
    ])
    .areas(area);
    frame.render_widget(title(state), top);
    frame.render_widget(Paragraph::new(notices), told);
    for (panel, area) in places(state, panels) {
        match panel {
            Panel::Chains => chains(frame, state, area),
            Panel::Tail => tail(frame, state, area),
            Panel::Cluster => cluster(frame, state, area),
        }
    }
    frame.render_widget(footer(state), bottom);
    match state.popup {
        Some(Popup::Help(skipped)) => help(frame, state, panels, skipped),
        Some(Popup::Event(skipped)) => whole(frame, state, panels, skipped),
        None => {}
    }
}

/// Which panels are shown, and where.
fn places(state: &State, area: Rect) -> Vec<(Panel, Rect)> {
    if area.height < LOW {
        return vec![(state.panel, area)];
    }
    let lines = state.cluster.as_ref().map_or(0, |it| it.nodes.len() + it.groups.len() + it.busy.len() + 4) as u16;
    // A list that is short leaves its room to the others.
    let most = if lines > 0 { area.height / 3 } else { area.height / 2 };
    let of_chains = (state.shown().len() as u16).saturating_add(3).clamp(5, most.max(5));
    let of_cluster = Constraint::Length(lines.min((area.height / 3).max(area.height.saturating_sub(of_chains + TAIL))));
    if area.width >= WIDE {
        let [left, tail] = Layout::horizontal([Constraint::Fill(1), Constraint::Fill(1)]).areas(area);
        let [chains, cluster] = Layout::vertical([Constraint::Fill(1), of_cluster]).areas(left);
        return with_cluster(state, vec![(Panel::Chains, chains), (Panel::Tail, tail)], cluster);
    }
    let [chains, tail, cluster] =
        Layout::vertical([Constraint::Length(of_chains), Constraint::Fill(1), of_cluster]).areas(area);
    with_cluster(state, vec![(Panel::Chains, chains), (Panel::Tail, tail)], cluster)
}

fn with_cluster(state: &State, mut places: Vec<(Panel, Rect)>, area: Rect) -> Vec<(Panel, Rect)> {
    places.extend(state.cluster.as_ref().map(|_| (Panel::Cluster, area)));
    places
}

/// A colour, where there are any. Nothing is said by colours alone.
fn colour(state: &State, colour: Color) -> Style {
    if state.has_colours { Style::new().fg(colour) } else { Style::new() }
}

fn bold() -> Style {
    Style::new().add_modifier(Modifier::BOLD)
}

fn dim() -> Style {
    Style::new().add_modifier(Modifier::DIM)
}

/// The node, how it is, and what all its chains come to.
fn title(state: &State) -> Text<'static> {
    let (word, style) = match &state.health {
        Health::Unknown => ("…".into(), dim()),
        Health::Ready(warnings) if warnings.is_empty() => ("ready".into(), colour(state, Color::Green)),
        Health::Ready(_) => ("ready, with warnings".into(), colour(state, Color::Yellow)),
        Health::NotReady(_) => ("NOT READY".into(), colour(state, Color::Red).patch(bold())),
        Health::Away(_) => {
            let seconds = state.now.saturating_duration_since(state.answered).as_secs();
            (format!("AWAY for {seconds} s"), colour(state, Color::Red).patch(bold()))
        }
    };
    let (chains, transactions, rate) = state.totals();
    let (chains, transactions) = (counted(chains as u64, "chain"), counted(transactions, "transaction"));
    Text::from(vec![
        Span::styled(harmless(&state.node), bold()),
        Span::raw("  "),
        Span::styled(word, style),
        Span::raw(format!("  {chains}, {transactions}, {}/s", of_rate(rate))),
    ])
}

/// What is wrong, in so many lines at most.
fn notices(state: &State, width: u16, most: usize) -> Vec<Text<'static>> {
    let (red, yellow) = (colour(state, Color::Red), colour(state, Color::Yellow));
    let mut told: Vec<(Style, String)> = match &state.health {
        Health::Away(reason) => vec![(red, format!("{reason}. Asking again each second"))],
        Health::NotReady(reason) => vec![(red, reason.clone())],
        Health::Ready(warnings) => warnings.iter().map(|warning| (yellow, format!("warning: {warning}"))).collect(),
        Health::Unknown => Vec::new(),
    };
    if let Some(reason) = state.no_chains.as_ref().filter(|_| !matches!(state.health, Health::Away(_))) {
        told.push((red, format!("the chains are not listed: {reason}")));
    }
    let lines = |(style, text): (Style, String)| {
        wrapped(&harmless(&text), width).into_iter().map(move |line| Text::styled(line, style))
    };
    let mut lines: Vec<Text> = told.into_iter().flat_map(lines).collect();
    if lines.len() > most {
        let left = lines.len() - most + 1;
        lines.truncate(most - 1);
        lines.push(Text::styled(format!("… {left} more lines"), dim()));
    }
    lines
}

/// A text in lines of this width, broken between words where that goes.
fn wrapped(text: &str, width: u16) -> Vec<String> {
    let width = usize::from(width.max(1));
    let mut lines = vec![String::new()];
    for word in text.split_inclusive(' ') {
        let line = lines.last_mut().expect("there is one");
        if Span::raw(format!("{line}{}", word.trim_end())).width() <= width {
            line.push_str(word);
            continue;
        }
        lines.push(String::new());
        for char in word.chars() {
            let line = lines.last_mut().expect("there is one");
            line.push(char);
            if Span::raw(line.trim_end()).width() > width {
                line.pop();
                lines.push(char.into());
            }
        }
    }
    lines.retain(|line| !line.is_empty());
    lines
}

/// A panel's frame, and the room in it.
fn panel(frame: &mut Frame, state: &State, panel: Panel, title: String, area: Rect) -> Rect {
    let style = if state.panel == panel { colour(state, Color::Cyan).patch(bold()) } else { dim() };
    let mark = if state.panel == panel { "▶ " } else { "" };
    let block = Block::bordered().border_style(style).title(Span::styled(format!(" {mark}{title} "), style));
    let inner = block.inner(area);
    frame.render_widget(block, area);
    inner
}

/// The first row that is shown, so that the chosen one is in the middle where that goes.
fn first(chosen: Option<usize>, rows: usize, room: usize) -> usize {
    chosen.unwrap_or(0).saturating_sub(room / 2).min(rows.saturating_sub(room))
}

/// A column of the list of chains.
struct Column {
    title: &'static str,
    /// From this width of the list on, there is room for it.
    from: u16,
    is_number: bool,
    text: fn(&Row) -> String,
}

const COLUMNS: &[Column] = &[
    Column { title: "QUANTS", from: 60, is_number: true, text: |row| grouped(row.length) },
    Column { title: "TRANSACTIONS", from: 30, is_number: true, text: |row| grouped(row.size) },
    Column { title: "POOLED", from: 46, is_number: true, text: |row| grouped(row.pooled) },
    Column { title: "PER SECOND", from: 38, is_number: true, text: |row| of_rate(row.rate) },
    Column { title: "HEAD", from: 72, is_number: false, text: |row| digits(&row.head).into() },
    Column { title: "", from: 30, is_number: false, text: |row| row.note.clone() },
];

fn chains(frame: &mut Frame, state: &State, area: Rect) {
    let (shown, place) = (state.shown(), state.place());
    let all = state.totals().0;
    let mut title = match place {
        Some(place) => format!("Chains {} of {}", grouped(place as u64 + 1), grouped(shown.len() as u64)),
        None => format!("Chains {}", grouped(shown.len() as u64)),
    };
    if !state.filter.is_empty() {
        title += &format!(" with \"{}\", of {}", harmless(&state.filter), grouped(all as u64));
    }
    title += &format!(", by {}", state.order.name());
    if !state.has_list() {
        title += ", reading…";
    }
    let inner = panel(frame, state, Panel::Chains, title, area);
    let room = usize::from(inner.height.saturating_sub(1));
    let first = first(place, shown.len(), room);
    let columns: Vec<&Column> = COLUMNS.iter().filter(|column| inner.width >= column.from).collect();
    let rows: Vec<_> = shown.iter().skip(first).take(room).filter_map(|name| Some((name, state.row(name)?))).collect();
    let cells: Vec<Vec<String>> =
        rows.iter().map(|(_, row)| columns.iter().map(|column| (column.text)(row)).collect()).collect();
    let width = |at: usize| {
        let widest = cells.iter().map(|cells| Span::raw(&cells[at]).width()).max().unwrap_or(0);
        // It stays where it is while numbers grow.
        widest.max(columns[at].title.len()).max(if columns[at].is_number { 7 } else { 0 })
    };
    let widths: Vec<usize> = (0..columns.len()).map(width).collect();
    let numbers: usize = widths.iter().zip(&columns).filter(|(_, c)| !c.title.is_empty()).map(|(w, _)| w + 2).sum();
    let longest = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0).max(5);
    let of_name = longest.min(usize::from(inner.width).saturating_sub(numbers + 2)).max(5);
    let line = |name: &str, cells: &[String]| {
        let mut line = fitted(name, of_name);
        for ((cell, width), column) in cells.iter().zip(&widths).zip(&columns) {
            let is_last = column.title.is_empty();
            line += &match (is_last, column.is_number) {
                (true, _) => format!("  {cell}"),
                (_, true) => format!("  {cell:>width$}"),
                (_, false) => format!("  {cell:<width$}"),
            };
        }
        line
    };
    let titles: Vec<String> = columns.iter().map(|column| column.title.to_owned()).collect();
    let mut lines = vec![Text::styled(format!("  {}", line("CHAIN", &titles)), bold())];
    for ((name, row), cells) in rows.iter().zip(&cells) {
        let is_chosen = *name == state.chosen();
        let style = if row.is_wrong { colour(state, Color::Red) } else { Style::new() };
        lines.push(chosen(state, Panel::Chains, is_chosen, Text::styled(line(name, cells), style)));
    }
    if rows.is_empty() && state.has_list() {
        let told = if all > 0 { "  no chain has this in its name: Esc shows all" } else { "  no chain: qbc bang NAME" };
        lines.push(Text::styled(told, dim()));
    }
    frame.render_widget(Paragraph::new(lines), inner);
}

/// A row, with a mark where it is the chosen one.
fn chosen<'a>(state: &State, panel: Panel, is_chosen: bool, mut line: Text<'a>) -> Text<'a> {
    line.spans.insert(0, Span::raw(if is_chosen { "> " } else { "  " }));
    match (is_chosen, state.panel == panel) {
        (true, true) => line.patch_style(Style::new().add_modifier(Modifier::REVERSED)),
        (true, false) => line.patch_style(bold()),
        _ => line,
    }
}

fn tail(frame: &mut Frame, state: &State, area: Rect) {
    let tail = &state.tail;
    let follows = match (&tail.lost, tail.chosen()) {
        (Some(_), _) => ", connecting again…",
        (None, Some(_)) => ", stopped: End follows",
        (None, None) => "",
    };
    let rate = state.row(state.chosen()).map_or(String::new(), |row| format!(", {}/s", of_rate(row.rate)));
    let title = format!("Tail of {}{rate}, UTC{follows}", harmless(state.chosen()));
    let inner = panel(frame, state, Panel::Tail, title, area);
    let lost = tail.lost.as_ref().map(|reason| wrapped(&harmless(reason), inner.width)).unwrap_or_default();
    let room = usize::from(inner.height).saturating_sub(lost.len());
    let rows = tail.events.len();
    // The newest is at the end.
    let first = if tail.chosen().is_some() { first(tail.chosen(), rows, room) } else { rows.saturating_sub(room) };
    let shown = || tail.events.iter().enumerate().skip(first).take(room);
    let widest = shown().map(|(_, (Line::Transaction { index, .. } | Line::Quant { index, .. }, _))| *index).max();
    let width = widest.unwrap_or(0).to_string().len();
    let mut lines: Vec<Text> = Vec::new();
    for (place, (event, _)) in shown() {
        let line = match event {
            Line::Transaction { index, time, label, data } => {
                let space = if label.is_empty() { "" } else { " " };
                Text::from(vec![
                    Span::styled(format!("{index:>width$} "), colour(state, Color::Cyan)),
                    Span::styled(format!("{time} "), dim()),
                    Span::styled(format!("{label}{space}"), colour(state, Color::Yellow)),
                    Span::raw(data.as_str()),
                ])
            }
            Line::Quant { index, size, hash } => {
                let text = format!("quant {index} at size {}, hash {}", grouped(*size), digits(hash));
                Text::styled(text, colour(state, Color::Green))
            }
        };
        lines.push(chosen(state, Panel::Tail, tail.chosen() == Some(place), line));
    }
    lines.extend(lost.into_iter().map(|line| Text::styled(line, colour(state, Color::Red))));
    frame.render_widget(Paragraph::new(lines), inner);
}

fn cluster(frame: &mut Frame, state: &State, area: Rect) {
    let Some(status) = &state.cluster else { return };
    let live = status.nodes.iter().filter(|node| node.state == "live").count();
    let mut title = format!("Cluster: {live} of {} nodes live, {} groups", status.nodes.len(), status.groups.len());
    let of_groups = |what: &str, is_so: fn(&GroupRow) -> bool| match status.groups.iter().filter(|it| is_so(it)).count()
    {
        0 => String::new(),
        count => format!(", {count} {what}"),
    };
    title += &of_groups("without a leader", |group| group.leader.is_none());
    title += &of_groups("lagging", |group| group.lag() > 0);
    let (red, yellow) = (colour(state, Color::Red), colour(state, Color::Yellow));
    let of_node = |state: &str| match state {
        "live" => Style::new(),
        "down" => red,
        _ => yellow,
    };
    let styles = [bold()].into_iter().chain(status.nodes.iter().map(|node| of_node(&node.state)));
    let styles = styles.chain([bold()]).chain(status.groups.iter().map(|group| match (&group.leader, group.lag()) {
        (None, _) => red,
        (_, 1..) => yellow,
        _ => Style::new(),
    }));
    let rows = format!("{}\n{}", aligned(rows_of_nodes(status)), aligned(rows_of_groups(status)));
    let lines = rows.lines().zip(styles).map(|(line, style)| Text::styled(line, style));
    let busy = status.busy.iter().map(|busy| Text::styled(harmless(busy), yellow));
    let mut lines: Vec<Text> = lines.chain(busy).collect();
    let excess = lines.len().saturating_sub(usize::from(area.height.saturating_sub(2)));
    let skipped = state.cluster_skipped.min(excess);
    if excess > skipped {
        title += &format!(", {} more lines below", excess - skipped);
    }
    let inner = panel(frame, state, Panel::Cluster, title, area);
    frame.render_widget(Paragraph::new(lines.split_off(skipped)), inner);
}

fn aligned(rows: Vec<Vec<String>>) -> String {
    let harmless = |row: Vec<String>| row.iter().map(|cell| harmless(cell)).collect();
    table(&rows.into_iter().map(harmless).collect::<Vec<_>>())
}

fn footer(state: &State) -> Text<'static> {
    if state.is_typing {
        return Text::from(vec![
            Span::styled(format!("/{}", harmless(&state.filter)), bold()),
            Span::styled("▏", bold()),
            Span::styled("  Enter: keep it  Esc: show all", dim()),
        ]);
    }
    let keys = match (state.popup, state.panel) {
        (Some(_), _) => "Esc back  ↑↓ scroll",
        (None, Panel::Chains) => "q quit  ? help  Tab panel  ↑↓ chain  / filter  s order  Enter tail",
        (None, Panel::Tail) => "q quit  ? help  Tab panel  ↑↓ choose  Enter all of it  End follow",
        (None, Panel::Cluster) => "q quit  ? help  Tab panel  ↑↓ scroll",
    };
    Text::styled(keys, dim())
}

/// A box in the middle of the screen, and the room in it.
fn boxed(frame: &mut Frame, state: &State, title: &str, (width, height): (u16, u16), area: Rect) -> Rect {
    let (width, height) = (area.width.min(width + 4), area.height.min(height + 2));
    let (x, y) = (area.x + (area.width - width) / 2, area.y + (area.height - height) / 2);
    let area = Rect { x, y, width, height };
    let style = colour(state, Color::Cyan).patch(bold());
    let block = Block::bordered().border_style(style).title(Span::styled(format!(" {title} "), style));
    let inner = block.inner(area);
    frame.render_widget(Clear, area);
    frame.render_widget(block, area);
    Rect { x: inner.x + 1, width: inner.width.saturating_sub(2), ..inner }
}

fn help(frame: &mut Frame, state: &State, area: Rect, skipped: usize) {
    let width = KEYS.iter().map(|(keys, _)| Span::raw(*keys).width()).max().unwrap_or(0);
    let lines: Vec<Text> = KEYS
        .iter()
        .skip(skipped)
        .map(|(keys, what)| Text::from(vec![Span::styled(format!("{keys:<width$}  "), bold()), Span::raw(*what)]))
        .collect();
    let size = (lines.iter().map(Text::width).max().unwrap_or(0) as u16, KEYS.len() as u16);
    let inner = boxed(frame, state, "Keys", size, area);
    frame.render_widget(Paragraph::new(lines).wrap(Wrap { trim: true }), inner);
}

fn whole(frame: &mut Frame, state: &State, area: Rect, skipped: usize) {
    let (Some(text), Some(event)) = (state.whole(), state.chosen_event()) else { return };
    let title = match event {
        Line::Transaction { index, .. } => format!("Transaction {index}"),
        Line::Quant { index, .. } => format!("Quant {index}"),
    };
    let width = area.width.saturating_sub(4);
    let lines: Vec<Text> = text.lines().flat_map(|line| wrapped(line, width)).map(Text::raw).collect();
    let size = (lines.iter().map(Text::width).max().unwrap_or(0) as u16, lines.len() as u16);
    let inner = boxed(frame, state, &title, size, area);
    let lines = lines.into_iter().skip(skipped).take(inner.height.into());
    frame.render_widget(Paragraph::new(lines.collect::<Vec<_>>()), inner);
}

/// A number as people read it: 1,234,567.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// So many things of a kind.
fn counted(number: u64, what: &str) -> String {
    format!("{} {what}{}", grouped(number), if number == 1 { "" } else { "s" })
}

/// Transactions a second. Nobody reads the digits of a fraction of many.
fn of_rate(rate: Option<f64>) -> String {
    match rate {
        None => "-".into(),
        Some(0.0) => "0".into(),
        Some(rate) if rate < 10.0 => format!("{rate:.1}"),
        Some(rate) => grouped(rate.round() as u64),
    }
}

fn digits(hash: &str) -> &str {
    hash.get(..DIGITS).unwrap_or(hash)
}

/// A name in so many columns, cut where it is longer.
fn fitted(name: &str, width: usize) -> String {
    match name.char_indices().nth(width) {
        Some(_) => name.chars().take(width.saturating_sub(1)).chain(['…']).collect(),
        None => format!("{name:<width$}"),
    }
}
