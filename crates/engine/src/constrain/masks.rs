//! Masks beside the forward pass.
//!
//! A mask depends on the tokens before it and not on the model, so it is computed while the model
//! computes the logits it will be applied to. One thread serves all sequences, in the order in
//! which their tokens were drawn: kernels share their work by whoever is free, so a core that does
//! this for a while delays no barrier.

use std::io;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread;

use kvist_base::TokenSet;
use kvist_grammar::{GrammarFault, GrammarState};

use super::sequence::Begun;

/// A state with its mask.
pub(crate) type Computed = (GrammarState, Result<TokenSet, GrammarFault>);

struct Job {
    begun: Begun,
    reply: SyncSender<Computed>,
}

/// The thread's door. It ends when the last door is gone. A sequence has one job at a time, so that
/// what waits is bounded by the sequences there are.
#[derive(Clone, Debug)]
pub(crate) struct MaskThread {
    jobs: Sender<Job>,
}

impl MaskThread {
    pub(crate) fn start() -> io::Result<Self> {
        let (jobs, queue) = channel();
        let thread = thread::Builder::new().name("kvist-masks".to_owned());
        thread.spawn(move || run(&queue))?;
        Ok(Self { jobs })
    }

    /// Computes the state's mask; both come back through the receiver.
    pub(super) fn compute(&self, begun: Begun) -> Receiver<Computed> {
        let (reply, answer) = sync_channel(1);
        // If the thread is gone, so is the reply's sender: whoever reads the answer finds out.
        let _ = self.jobs.send(Job { begun, reply });
        answer
    }
}

fn run(queue: &Receiver<Job>) {
    while let Ok(Job { begun, reply }) = queue.recv() {
        // The sequence may be over meanwhile.
        let _ = reply.send(begun.compute());
    }
}
