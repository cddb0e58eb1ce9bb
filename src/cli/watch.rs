//! `qbc watch`: a node on the whole screen, as it is now: its health, its chains and their rates, its cluster, and what happens on a chain.
//!
//! The state is changed by what is fetched and by keys, and drawn when it has changed, a few times a second at most.

mod draw;
mod fetch;
mod state;
#[cfg(test)]
mod tests;

use std::{
    io::{self, IsTerminal},
    thread,
    time::{Duration, Instant},
};

use anyhow::Context;
use ratatui::{
    DefaultTerminal,
    crossterm::event::{self, Event, KeyEventKind},
};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{mpsc, watch},
    time::{MissedTickBehavior, interval},
};

use super::{Usage, connection::Connection, output};
use fetch::{AROUND, Wanted};
use state::State;

/// Between two drawings, unless a key comes.
const FRAME: Duration = Duration::from_millis(100);

/// Answers that wait for the next drawing. Whoever has more waits.
const WAITING: usize = 64;

/// Shows a node until the user leaves.
///
/// # Errors
/// There is no terminal, or the node cannot be reached in the beginning. Later, its absence is shown.
pub async fn run(node: &Connection) -> anyhow::Result<()> {
    let is_terminal = io::stdout().is_terminal() && io::stdin().is_terminal();
    if !is_terminal || output::is_dumb() {
        let what = "qbc watch draws on a whole terminal, and this is none";
        let cure = "take `qbc tail`, `qbc stats`, `qbc chains` or `qbc cluster --watch`, which print lines";
        return Err(Usage(format!("{what}: {cure}")).into());
    }
    let chain = fetch::first_chain(node).await?;
    let name = node.url().as_str().trim_end_matches('/').to_owned();
    let mut state = State::new(name, chain.clone(), Instant::now(), output::has_colours());
    let (messages, mut answers) = mpsc::channel(WAITING);
    let (wants, wanted) = watch::channel(Wanted { chain, after: None });
    let mut fetching = std::pin::pin!(fetch::run(node, messages, wanted));
    let mut screen = Screen::take().context("cannot take the terminal")?;
    let mut events = events();
    let mut frames = interval(FRAME);
    frames.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let ended = ended()?;
    let mut ended = std::pin::pin!(ended);
    let mut is_changed = true;
    loop {
        if is_changed {
            screen.0.draw(|frame| draw::screen(frame, &state)).context("cannot draw")?;
        }
        is_changed = tokio::select! {
            never = &mut fetching => match never {},
            () = &mut ended => return Ok(()),
            event = events.recv() => match event {
                Some(Event::Key(key)) if key.kind != KeyEventKind::Release && !state.press(key) => return Ok(()),
                // The next drawing sees the size of the terminal.
                Some(_) => true,
                None => return Ok(()),
            },
            _ = frames.tick() => {
                let mut is_told = false;
                while let Ok(answer) = answers.try_recv() {
                    state.take(answer);
                    is_told = true;
                }
                is_told | state.pass(Instant::now())
            }
        };
        let now = Wanted { chain: state.chosen().clone(), after: state.before_chosen(AROUND) };
        wants.send_if_modified(|wanted| now != std::mem::replace(wanted, now.clone()));
    }
}

/// The whole terminal. Dropped, it is as it was, and so it is before a panic says what it has to say.
struct Screen(DefaultTerminal);

impl Screen {
    fn take() -> io::Result<Screen> {
        ratatui::try_init().map(Screen).inspect_err(|_| ratatui::restore())
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        ratatui::restore();
    }
}

/// What happens at the terminal, until it is gone.
fn events() -> mpsc::UnboundedReceiver<Event> {
    let (sender, events) = mpsc::unbounded_channel();
    thread::spawn(move || {
        while let Ok(event) = event::read() {
            if sender.send(event).is_err() {
                return;
            }
        }
    });
    events
}

/// Waits until the program is told to end, or its terminal is closed.
fn ended() -> io::Result<impl Future<Output = ()>> {
    let mut interrupted = signal(SignalKind::interrupt())?;
    let mut terminated = signal(SignalKind::terminate())?;
    let mut hung_up = signal(SignalKind::hangup())?;
    Ok(async move {
        tokio::select! {
            _ = interrupted.recv() => {}
            _ = terminated.recv() => {}
            _ = hung_up.recv() => {}
        }
    })
}
