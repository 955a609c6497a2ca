//! SIGINT and SIGTERM as values to wait for.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Listens for the two signals that ask a program to stop. From its creation on they no longer end
/// the process by themselves.
#[derive(Debug)]
pub(crate) struct StopSignals {
    interrupt: Signal,
    terminate: Signal,
}

impl StopSignals {
    /// Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// When the system refuses the handlers.
    pub(crate) fn listen() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    /// Waits for the next of either.
    pub(crate) async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// Calls `state` whenever somebody sends SIGQUIT, and lets SIGHUP pass: a terminal that closes does
/// not take the server with it. Serving goes on in both cases. Must be called inside a tokio runtime.
///
/// # Errors
/// When the system refuses the handlers.
pub(crate) fn report_on_quit(state: impl Fn() + Send + 'static) -> io::Result<()> {
    let mut quit = signal(SignalKind::quit())?;
    let mut hangup = signal(SignalKind::hangup())?;
    tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = quit.recv() => state(),
                _ = hangup.recv() => {}
            }
        }
    });
    Ok(())
}
