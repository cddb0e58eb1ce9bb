//! What the service manager is told of the node, where one started it (systemd, `Type=notify`; sd_notify(3)): that it is ready, reads its
//! configuration again, or stops, and that it is alive. Where nobody listens, nothing is said.

use sd_notify::NotifyState;

/// Says how far a start is.
pub fn starting(status: &str) {
    tell(&[NotifyState::Status(status)]);
}

/// Says that the node takes requests, or goes on to after [`reloading`].
pub fn ready(status: &str) {
    tell(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// Says that the configuration is read again. [`ready`] must follow.
pub fn reloading() {
    if let Ok(now) = NotifyState::monotonic_usec_now() {
        tell(&[NotifyState::Reloading, now]);
    }
}

/// Says that the node finishes what is under way, and ends.
pub fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// Says again and again that the node is alive, where that is asked for (`WatchdogSec`): twice as often as it must.
pub async fn watchdog() {
    if let Some(period) = sd_notify::watchdog_enabled() {
        let mut beats = tokio::time::interval(period / 2);
        loop {
            beats.tick().await;
            tell(&[NotifyState::Watchdog]);
        }
    }
}

fn tell(state: &[NotifyState]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!("the service manager cannot be told: {error}");
    }
}
