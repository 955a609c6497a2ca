//! The engine as its callers see it: cheap to clone, usable from any thread.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use kvist_base::{Bytes, SeqId, TokenId, Tokens};
use kvist_plan::{Plan, PlanError};
use kvist_text::{ChatInput, ChatTemplate, ChatTraits, SpecialText};

use crate::control::Control;
use crate::emit::{EventStream, Progress, StreamEvent};
use crate::error::{EngineFault, RequestError, SubmitError};
use crate::map::BlockMap;
use crate::memory::{BudgetError, MemoryReport, ProcessMemory, ResetError};
use crate::metrics::MetricsSnapshot;
use crate::plan_change::PlanChange;
use crate::request::{GenerateSpec, Prompt, PromptOptions};
use crate::shared::Shared;

/// What is being served.
#[derive(Clone, Debug)]
pub struct ModelInfo {
    /// The model's own name, from its file.
    pub name: String,
    /// Architecture, as the file names it.
    pub architecture: String,
    /// Tokens in the vocabulary.
    pub vocab_len: usize,
    /// Largest sequence served: prompt and output together.
    pub model_len: Tokens,
    /// Short for all that outputs depend on beside requests: program, weights, KV dtype. Hexadecimal.
    pub fingerprint: String,
    /// Whether conversations can be rendered.
    pub has_chat_template: bool,
    /// Where every byte goes, as planned at the start.
    pub plan: Plan,
    /// The instruction tier the kernels run on.
    pub isa: &'static str,
    /// Compute threads.
    pub threads: usize,
}

/// Whether the engine can serve.
#[derive(Clone, Debug, PartialEq)]
pub enum EngineStatus {
    /// Serving.
    Ready,
    /// Finishing what it has; nothing new is taken.
    Draining,
    /// Stopped by a fault.
    Failed(EngineFault),
}

/// A caller's connection to a running engine.
#[derive(Clone, Debug)]
pub struct EngineHandle {
    pub(crate) shared: Arc<Shared>,
}

impl EngineHandle {
    /// What is being served.
    pub fn info(&self) -> &ModelInfo {
        &self.shared.info
    }

    /// Whether the engine can serve.
    pub fn status(&self) -> EngineStatus {
        self.shared.status()
    }

    /// Counters and gauges as of the last step.
    pub fn metrics(&self) -> MetricsSnapshot {
        self.shared.metrics()
    }

    /// For how long the engine thread has been at one step; `None` while it waits for work. Does not
    /// wait for it.
    pub fn stalled(&self) -> Option<Duration> {
        self.shared.pulse.busy_for()
    }

    /// Where the bytes are, as of the last step.
    pub fn memory(&self) -> MemoryReport {
        let view = self.shared.memory();
        MemoryReport {
            budget: view.ledger.budget(),
            lines: view.ledger.lines().to_vec(),
            kv: view.kv,
            process: ProcessMemory::read(),
            plan: view.plan,
        }
    }

    /// Every block of the pool and every live sequence, at most
    /// [`MAP_AGE_MAX`](crate::MAP_AGE_MAX) old; `None` when the engine has stopped. Waits for the
    /// step that runs: not for async code.
    pub fn block_map(&self) -> Option<Arc<BlockMap>> {
        self.shared.block_map()
    }

    /// Where every byte would go under other limits. Budget and machine are those of the start,
    /// unless the change says otherwise.
    ///
    /// # Errors
    /// A limit that makes no sense. A model that would not fit is a plan that says so.
    pub fn plan_with(&self, change: PlanChange) -> Result<Plan, PlanError> {
        self.shared.basis.plan(change)
    }

    /// Changes the budget; only the KV pool changes with it. A smaller one takes effect before this
    /// returns: cached blocks go first, then the newest sequences wait for room. Nothing is lost.
    /// Waits for the step that runs: not for async code.
    ///
    /// # Errors
    /// [`BudgetError`] with the least budget that would do; the old one then stays in force.
    pub fn set_budget(&self, budget: Bytes) -> Result<MemoryReport, BudgetError> {
        let reply = self
            .shared
            .control(|reply| Control::SetBudget { budget, reply });
        reply.unwrap_or(Err(BudgetError::Stopped))?;
        Ok(self.memory())
    }

    /// Drops all that is only cached, and gives back the memory of every block not in use. Returns
    /// how much that was; nothing when the engine has stopped. Waits for the step that runs.
    pub fn release_kv(&self) -> Bytes {
        let reply = self.shared.control(|reply| Control::ReleaseKv { reply });
        reply.unwrap_or_default()
    }

    /// Forgets all cached prefixes, in memory and on disk. Waits for the step that runs.
    ///
    /// # Errors
    /// Requests hold parts of the cache, or the engine has stopped.
    pub fn reset_prefix_cache(&self) -> Result<(), ResetError> {
        let reply = self
            .shared
            .control(|reply| Control::ResetPrefixCache { reply });
        Ok(reply.ok_or(ResetError::Stopped)??)
    }

    /// Checks, renders, tokenises and enqueues a request. Runs on the caller's thread; takes time
    /// proportional to the prompt.
    ///
    /// # Errors
    /// [`SubmitError::Invalid`] names the field and the limit; `Overloaded` means later.
    pub fn submit(&self, spec: GenerateSpec) -> Result<RequestHandle, SubmitError> {
        self.shared.submit(spec)
    }

    /// Tokens of a text, without BOS.
    ///
    /// # Errors
    /// When the text cannot be a prompt of this model.
    pub fn tokenize(&self, text: &str, mode: SpecialText) -> Result<Vec<TokenId>, RequestError> {
        self.shared.tokenize(text, mode)
    }

    /// The tokens a request with this prompt and `output_max` would run with, BOS included. Runs on
    /// the caller's thread.
    ///
    /// # Errors
    /// When it cannot be a prompt of this model.
    pub fn prompt_tokens(
        &self,
        prompt: Prompt,
        options: &PromptOptions,
        output_max: Option<Tokens>,
    ) -> Result<Vec<TokenId>, RequestError> {
        self.shared.prompt_tokens(prompt, options, output_max)
    }

    /// A conversation as the model's chat template writes it.
    ///
    /// # Errors
    /// When there is no template or it refuses the conversation.
    pub fn render_chat(&self, input: &ChatInput) -> Result<String, RequestError> {
        self.shared.render_chat(input)
    }

    /// What conversations the model's chat template can write, and how the model answers; `None`
    /// without a template.
    pub fn chat_traits(&self) -> Option<&ChatTraits> {
        self.shared.template.as_ref().map(ChatTemplate::traits)
    }

    /// The bytes a token stands for; empty for an id outside the vocabulary.
    pub fn token_bytes(&self, token: TokenId) -> Vec<u8> {
        self.shared.token_bytes(token)
    }

    /// Takes nothing new from now on; what was accepted is finished.
    pub fn drain(&self) {
        self.shared.drain();
    }
}

/// One request in the engine. Dropping it cancels the request: its blocks are back within a step.
#[derive(Debug)]
pub struct RequestHandle {
    pub(crate) id: SeqId,
    pub(crate) prompt_len: Tokens,
    pub(crate) prompt_tail: String,
    pub(crate) prompt_tokens: Vec<TokenId>,
    pub(crate) events: EventStream,
}

impl RequestHandle {
    /// The sequence's id.
    pub fn id(&self) -> SeqId {
        self.id
    }

    /// Tokens in the prompt, BOS included.
    pub fn prompt_len(&self) -> Tokens {
        self.prompt_len
    }

    /// A look at how far the request is, that can be kept while its events are read.
    pub fn progress(&self) -> Progress {
        self.events.progress()
    }

    /// The last characters of a conversation as the model's template wrote it; empty for other
    /// prompts. Tells whether the model was left in the middle of its reasoning.
    pub fn prompt_tail(&self) -> &str {
        &self.prompt_tail
    }

    /// The prompt's tokens, if the request asked to keep them; otherwise none.
    pub fn prompt_tokens(&self) -> &[TokenId] {
        &self.prompt_tokens
    }

    /// The next event, `None` after the last. `None` without a `Finished` or `Failed` before it
    /// means the engine is gone.
    pub fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<StreamEvent>> {
        self.events.poll_next(context)
    }

    /// [`Self::poll_next`] as a future.
    pub async fn next(&mut self) -> Option<StreamEvent> {
        poll_fn(|context| self.events.poll_next(context)).await
    }

    /// [`Self::poll_next`], waiting on this thread.
    pub fn recv(&mut self) -> Option<StreamEvent> {
        self.events.recv()
    }
}
