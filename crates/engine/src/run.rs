//! The engine thread: take in what callers sent, run a step, repeat; wait when there is nothing.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Instant;

use kvist_base::{Blocks, SeqId};
use kvist_sched::{AdmitError, PoolCounts};

use crate::error::EngineFault;
use crate::handle::EngineStatus;
use crate::live::Live;
use crate::shared::{Command, Submission};
use crate::speculation::Speculator;
use crate::step::{Core, gauges};

/// The pools as the engine thread left them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Remains {
    pub(crate) pool: PoolCounts,
    /// Blocks of the draft model's pool, free and in all.
    pub(crate) draft: (Blocks, Blocks),
}

/// Serves until drained or failed; returns the pools' last state.
pub(crate) fn run(mut core: Core, commands: &Receiver<Command>) -> Remains {
    let served = catch_unwind(AssertUnwindSafe(|| serve(&mut core, commands)));
    let fault = match served {
        Ok(Ok(())) => None,
        Ok(Err(fault)) => Some(fault),
        Err(panic) => Some(EngineFault::Panic(panic_text(&*panic))),
    };
    if let Some(fault) = fault {
        stop(&mut core, commands, &fault);
    }
    core.shared.pulse.rest();
    let speculator = core.speculator.as_ref();
    Remains {
        pool: core.scheduler.pool_counts(),
        draft: speculator.map(Speculator::draft_blocks).unwrap_or_default(),
    }
}

fn serve(core: &mut Core, commands: &Receiver<Command>) -> Result<(), EngineFault> {
    loop {
        core.shared.pulse.beat();
        core.cancel_abandoned();
        core.take_in(commands)?;
        if core.scheduler.has_work() {
            core.step()?;
        } else if core.shared.status() == EngineStatus::Draining && core.shared.is_empty() {
            return core.close();
        } else {
            core.report();
            core.shared.pulse.rest();
            let next = match core.memory.idle.due_in(Instant::now()) {
                None => commands.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(wait) => commands.recv_timeout(wait),
            };
            core.shared.pulse.beat();
            match next {
                Ok(command) => core.accept(command)?,
                Err(RecvTimeoutError::Timeout) => core.rest()?,
                Err(RecvTimeoutError::Disconnected) => return core.close(),
            }
        }
    }
}

/// Fails every request there is or was about to be: state may be broken, so nothing goes on.
fn stop(core: &mut Core, commands: &Receiver<Command>, fault: &EngineFault) {
    tracing::error!(%fault, "the engine has stopped");
    core.shared.fail(fault.clone());
    let live = std::mem::take(&mut core.live);
    core.shared.update_metrics(|metrics| {
        for (_, live) in live {
            live.fail(fault.clone(), metrics);
        }
    });
    // Callers who saw the engine ready may still be on their way in; they hear of it too.
    while !core.shared.is_empty() {
        let Ok(command) = commands.recv() else { return };
        if let Command::Submit(submission) = command {
            let (_, live) = Live::new(*submission, &core.tokenizer);
            core.shared.update_metrics(|metrics| {
                metrics.accepted += 1;
                live.fail(fault.clone(), metrics);
            });
        }
    }
}

impl Core {
    /// Accepts everything callers have sent so far, without waiting.
    fn take_in(&mut self, commands: &Receiver<Command>) -> Result<(), EngineFault> {
        while let Ok(command) = commands.try_recv() {
            self.accept(command)?;
        }
        Ok(())
    }

    fn accept(&mut self, command: Command) -> Result<(), EngineFault> {
        match command {
            Command::Submit(submission) => self.admit(*submission),
            Command::Control(control) => self.control(control)?,
            Command::Wake => {}
        }
        Ok(())
    }

    /// Nothing has been served for a while: what only might be of use goes back to the system.
    fn rest(&mut self) -> Result<(), EngineFault> {
        let bytes = self.release_kv()?;
        self.memory.idle.released();
        self.report();
        tracing::debug!(%bytes, "idle: KV memory given back");
        Ok(())
    }

    fn admit(&mut self, submission: Submission) {
        let id = submission.id;
        let (sequence, live) = Live::new(submission, &self.tokenizer);
        let prompt_len = sequence.prompt.len() as u64;
        match self.scheduler.admit(sequence) {
            Ok(()) => {
                self.live.insert(id, live);
                self.shared.update_metrics(|metrics| {
                    metrics.accepted += 1;
                    metrics.prompt_tokens += prompt_len;
                    gauges(&self.scheduler, metrics);
                });
            }
            // A smaller budget overtook the request.
            Err(AdmitError::NeverFits {
                blocks_needed: needed,
                blocks_limit: total,
            }) => {
                let fault = EngineFault::PoolShrunk { needed, total };
                self.shared.update_metrics(|metrics| {
                    metrics.accepted += 1;
                    live.fail(fault, metrics);
                });
            }
            // `Shared::check` and the bound on requests in flight rule this out; if they ever
            // disagree with the scheduler the client still hears of it.
            Err(error) => {
                let fault = EngineFault::Panic(format!("a checked request was refused: {error}"));
                self.shared.update_metrics(|metrics| {
                    metrics.accepted += 1;
                    live.fail(fault, metrics);
                });
            }
        }
    }

    /// Gives back what clients who have gone were holding.
    fn cancel_abandoned(&mut self) {
        let gone: Vec<SeqId> = self
            .live
            .iter()
            .filter(|(_, live)| live.is_abandoned())
            .map(|(id, _)| *id)
            .collect();
        for id in gone {
            let end = self
                .scheduler
                .cancel(id)
                .expect("a live sequence is scheduled");
            let live = self.live.remove(&id).expect("just listed");
            self.shared.update_metrics(|metrics| {
                live.finish(&end, metrics);
                gauges(&self.scheduler, metrics);
            });
        }
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    panic
        .downcast_ref::<String>()
        .cloned()
        .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
        .unwrap_or_else(|| "a panic without a message".to_owned())
}
