//! What the engine thread and its callers share: constants of the model, a bounded way in, and the
//! numbers of the last step.

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use kvist_base::{Blocks, SeqId, TokenId, Tokens};
use kvist_grammar::ConstraintError;
use kvist_plan::{Ledger, LineKind, Plan};
use kvist_sample::{ParamError, SamplingParams};
use kvist_text::{ChatInput, ChatTemplate, SpecialText, StopMatcher, Tokenizer};

use crate::constrain::Constraints;
use crate::control::Control;
use crate::emit::{Emitter, channel};
use crate::error::{EngineFault, RequestError, SubmitError};
use crate::handle::{EngineStatus, ModelInfo, RequestHandle};
use crate::map::{BlockMap, MAP_AGE_MAX};
use crate::memory::KvReport;
use crate::metrics::MetricsSnapshot;
use crate::places::{Place, WaitingTokens};
use crate::plan_change::PlanBasis;
use crate::pulse::Pulse;
use crate::request::{EndTokens, GenerateRequest, GenerateSpec, PromptTokens};

/// What callers may tell the engine thread.
pub(crate) enum Command {
    /// Serve this.
    Submit(Box<Submission>),
    /// Change this, and reply.
    Control(Control),
    /// Look at the status: it has changed.
    Wake,
}

/// A checked request on its way in.
pub(crate) struct Submission {
    pub(crate) id: SeqId,
    pub(crate) request: GenerateRequest,
    pub(crate) emitter: Emitter,
    pub(crate) place: Place,
    pub(crate) waiting: WaitingTokens,
    pub(crate) accepted_at: Instant,
}

/// The pool as callers need to know it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PoolShape {
    pub(crate) block_size: Tokens,
    /// Blocks at the start; a new budget changes it.
    pub(crate) blocks_limit: Blocks,
}

/// The model's memory as of the last step.
#[derive(Clone, Debug)]
pub(crate) struct MemoryView {
    pub(crate) plan: Plan,
    pub(crate) ledger: Ledger,
    pub(crate) kv: KvReport,
}

/// Roots of prefixes without a salt. Kept between processes, unlike the others.
pub(crate) const UNSALTED_ROOT: u64 = 0;

pub(crate) struct Shared {
    pub(crate) info: ModelInfo,
    pub(crate) basis: PlanBasis,
    pub(crate) tokenizer: Arc<dyn Tokenizer>,
    pub(crate) template: Option<ChatTemplate>,
    /// `None`: the plan has no room for them.
    pub(crate) constraints: Option<Arc<Constraints>>,
    block_size: Tokens,
    blocks_limit: AtomicU32,
    pub(crate) in_flight_max: usize,
    pub(crate) waiting_tokens_max: u64,
    pub(crate) pulse: Pulse,
    pub(crate) commands: SyncSender<Command>,
    /// Salts and tenants become numbers nobody outside can aim at.
    names: RandomState,
    memory: Mutex<MemoryView>,
    /// The last map somebody asked for, and when that was.
    map: Mutex<Option<(Instant, Arc<BlockMap>)>>,
    pub(crate) in_flight: AtomicUsize,
    /// Tokens of prompts that have not had their turn.
    pub(crate) waiting_tokens: AtomicU64,
    next_id: AtomicU64,
    status: Mutex<EngineStatus>,
    metrics: Mutex<MetricsSnapshot>,
}

/// Parts that loading provides.
pub(crate) struct SharedParts {
    pub(crate) info: ModelInfo,
    pub(crate) basis: PlanBasis,
    pub(crate) tokenizer: Arc<dyn Tokenizer>,
    pub(crate) template: Option<ChatTemplate>,
    pub(crate) pool: PoolShape,
    pub(crate) memory: MemoryView,
    pub(crate) in_flight_max: usize,
    pub(crate) waiting_tokens_max: u64,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("model", &self.info.name)
            .finish_non_exhaustive()
    }
}

/// Holders of these locks only copy values: a panic there leaves them whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    pub(crate) fn new(parts: SharedParts, commands: SyncSender<Command>) -> Self {
        let SharedParts {
            info,
            basis,
            tokenizer,
            template,
            pool,
            memory,
            in_flight_max,
            waiting_tokens_max,
        } = parts;
        let mut lines = memory.plan.lines.iter();
        let has_grammars = lines.any(|line| line.kind == LineKind::Grammars);
        let model_len = info.model_len;
        Self {
            info,
            constraints: has_grammars.then(|| Arc::new(Constraints::new(Arc::clone(&tokenizer)))),
            basis,
            tokenizer,
            template,
            block_size: pool.block_size,
            blocks_limit: AtomicU32::new(pool.blocks_limit.0),
            in_flight_max,
            waiting_tokens_max,
            pulse: Pulse::default(),
            commands,
            names: RandomState::new(),
            memory: Mutex::new(memory),
            map: Mutex::new(None),
            in_flight: AtomicUsize::new(0),
            waiting_tokens: AtomicU64::new(0),
            next_id: AtomicU64::new(0),
            status: Mutex::new(EngineStatus::Ready),
            metrics: Mutex::new(MetricsSnapshot::new(model_len)),
        }
    }

    pub(crate) fn status(&self) -> EngineStatus {
        lock(&self.status).clone()
    }

    pub(crate) fn metrics(&self) -> MetricsSnapshot {
        lock(&self.metrics).clone()
    }

    pub(crate) fn update_metrics(&self, update: impl FnOnce(&mut MetricsSnapshot)) {
        update(&mut lock(&self.metrics));
    }

    pub(crate) fn memory(&self) -> MemoryView {
        lock(&self.memory).clone()
    }

    pub(crate) fn update_memory<T>(&self, update: impl FnOnce(&mut MemoryView) -> T) -> T {
        update(&mut lock(&self.memory))
    }

    pub(crate) fn set_blocks_limit(&self, limit: Blocks) {
        self.blocks_limit.store(limit.0, Ordering::Release);
    }

    fn blocks_limit(&self) -> Blocks {
        Blocks(self.blocks_limit.load(Ordering::Acquire))
    }

    /// Sends a control and waits for the reply. `None`: the engine has stopped.
    pub(crate) fn control<T>(&self, control: impl FnOnce(SyncSender<T>) -> Control) -> Option<T> {
        let (reply, answer) = sync_channel(1);
        self.commands.send(Command::Control(control(reply))).ok()?;
        answer.recv().ok()
    }

    /// A map of at most [`MAP_AGE_MAX`]; the engine makes a new one if need be, one at a time.
    /// `None`: it has stopped.
    pub(crate) fn block_map(&self) -> Option<Arc<BlockMap>> {
        let mut last = lock(&self.map);
        if let Some((taken_at, map)) = &*last
            && taken_at.elapsed() < MAP_AGE_MAX
        {
            return Some(Arc::clone(map));
        }
        let map = Arc::new(self.control(|reply| Control::Map { reply })?);
        *last = Some((Instant::now(), Arc::clone(&map)));
        Some(map)
    }

    /// The root of a salt's prefixes.
    fn cache_root(&self, salt: Option<&str>) -> u64 {
        salt.map_or(UNSALTED_ROOT, |salt| {
            // The hash of a salt may be the unsalted root, once in 2^64.
            self.names.hash_one(salt).max(UNSALTED_ROOT + 1)
        })
    }

    pub(crate) fn drain(&self) {
        {
            let mut status = lock(&self.status);
            if *status != EngineStatus::Ready {
                return;
            }
            *status = EngineStatus::Draining;
        }
        self.wake();
    }

    /// A full channel wakes the engine by itself; in a closed one there is nothing left to wake.
    pub(crate) fn wake(&self) {
        let _ = self.commands.try_send(Command::Wake);
    }

    /// Whether no request is in the engine or on its way in. Once the status is not `Ready` this
    /// does not change any more: see [`Shared::take_place`].
    pub(crate) fn is_empty(&self) -> bool {
        self.in_flight.load(Ordering::Acquire) == 0
    }

    pub(crate) fn fail(&self, fault: EngineFault) {
        *lock(&self.status) = EngineStatus::Failed(fault);
    }

    pub(crate) fn tokenize(
        &self,
        text: &str,
        mode: SpecialText,
    ) -> Result<Vec<TokenId>, RequestError> {
        self.check_bytes(text)?;
        Ok(self.tokenizer.encode(text, mode)?)
    }

    pub(crate) fn render_chat(&self, input: &ChatInput) -> Result<String, RequestError> {
        let template = self.template.as_ref().ok_or(RequestError::NoChatTemplate)?;
        Ok(template.render(input)?)
    }

    pub(crate) fn token_bytes(&self, token: TokenId) -> Vec<u8> {
        self.tokenizer
            .token_bytes(token)
            .map(|bytes| bytes.into_owned())
            .unwrap_or_default()
    }

    pub(crate) fn submit(
        self: &Arc<Self>,
        spec: GenerateSpec,
    ) -> Result<RequestHandle, SubmitError> {
        // Before any work on the prompt: an overloaded engine answers at once.
        let place = self.take_place()?;
        let keep = spec.prompt_options.tokens;
        let (request, prompt_tail) = self.check(spec)?;
        let waiting = self.take_tokens(request.prompt.len() as u64)?;
        let prompt_tokens = match keep {
            PromptTokens::Forget => Vec::new(),
            PromptTokens::Keep => request.prompt.clone(),
        };
        let id = SeqId(self.next_id.fetch_add(1, Ordering::Relaxed));
        let prompt_len = tokens_of(request.prompt.len());
        let (emitter, events) = channel();
        let submission = Submission {
            id,
            request,
            emitter,
            place,
            waiting,
            accepted_at: Instant::now(),
        };
        match self
            .commands
            .try_send(Command::Submit(Box::new(submission)))
        {
            Ok(()) => Ok(RequestHandle {
                id,
                prompt_len,
                prompt_tail,
                prompt_tokens,
                events,
            }),
            Err(_) => Err(self.refusal()),
        }
    }

    /// One of `in_flight_max` places.
    ///
    /// Taken before the status is read: an engine that stops serving and then finds no place taken
    /// knows that nothing more will come.
    fn take_place(self: &Arc<Self>) -> Result<Place, SubmitError> {
        let taken = self
            .in_flight
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |count| {
                (count < self.in_flight_max).then_some(count + 1)
            });
        let place = taken.map(|_| Place {
            shared: Arc::clone(self),
        });
        match self.status() {
            EngineStatus::Ready => place.map_err(|in_flight| {
                self.update_metrics(|metrics| metrics.rejected += 1);
                SubmitError::Overloaded {
                    in_flight,
                    in_flight_max: self.in_flight_max,
                }
            }),
            EngineStatus::Draining => Err(SubmitError::Draining),
            EngineStatus::Failed(fault) => Err(SubmitError::Stopped(fault)),
        }
    }

    /// Room for a prompt among those that wait. Where nothing waits there is room for any.
    fn take_tokens(self: &Arc<Self>, tokens: u64) -> Result<WaitingTokens, SubmitError> {
        let limit = self.waiting_tokens_max;
        let order = (Ordering::AcqRel, Ordering::Acquire);
        let taken = self
            .waiting_tokens
            .fetch_update(order.0, order.1, |waiting| {
                let sum = waiting.saturating_add(tokens);
                (waiting == 0 || sum <= limit).then_some(sum)
            });
        match taken {
            Ok(_) => Ok(WaitingTokens {
                shared: Arc::clone(self),
                tokens,
            }),
            Err(waiting) => Err(SubmitError::TooManyTokensWaiting { waiting, limit }),
        }
    }

    /// The engine thread is gone, on purpose or not.
    fn refusal(&self) -> SubmitError {
        match self.status() {
            EngineStatus::Failed(fault) => SubmitError::Stopped(fault),
            EngineStatus::Ready | EngineStatus::Draining => SubmitError::Draining,
        }
    }

    /// The only way to a [`GenerateRequest`]. Comes with the end of a rendered conversation.
    fn check(&self, spec: GenerateSpec) -> Result<(GenerateRequest, String), RequestError> {
        if spec.stop.len() > GenerateSpec::STOPS_MAX {
            let (limit, given) = (GenerateSpec::STOPS_MAX, spec.stop.len());
            return Err(RequestError::TooManyStops { limit, given });
        }
        let stop = StopMatcher::new(spec.stop.clone())?;
        // A grammar is at its end where it is: there is nothing to ignore.
        let end_tokens = match spec.constraint {
            Some(_) => EndTokens::Stop,
            None => spec.end_tokens,
        };
        let ends = self.ends(end_tokens, &spec.stop_tokens);
        let mut sampling = spec.sampling;
        sampling.end_tokens.clone_from(&ends);
        sampling.bad_words.extend(self.spellings(&spec.bad_words)?);
        let sampling = SamplingParams::new(sampling, self.tokenizer.vocab_len())?;
        let prompt_logprobs = spec.prompt_options.logprobs;
        ParamError::check_logprobs("prompt_logprobs", prompt_logprobs)?;
        if spec.output_max == Some(Tokens::ZERO) && prompt_logprobs.is_none() {
            return Err(RequestError::NoOutput);
        }
        let (prompt, prompt_tail) =
            self.prompt_and_tail(spec.prompt, &spec.prompt_options, spec.output_max)?;
        let output_max = self.output_max(
            tokens_of(prompt.len()),
            (spec.output_max, spec.output_default),
        )?;
        // Last: it takes the most work.
        let constrained = match spec.constraint {
            Some(constraint) => {
                let constraints = self.constraints.as_ref().ok_or(ConstraintError::Off)?;
                Some(constraints.begin_sequence(constraint)?)
            }
            None => None,
        };
        let request = GenerateRequest {
            constrained,
            cache_root: self.cache_root(spec.cache_salt.as_deref()),
            priority: spec.priority,
            tenant: spec.tenant.map_or(0, |tenant| self.names.hash_one(tenant)),
            prompt,
            prompt_logprobs,
            sampling,
            stop,
            stop_texts: spec.stop,
            stop_text: spec.stop_text,
            alternatives: spec.alternatives,
            ends,
            output_max,
            special_tokens: spec.special_tokens,
            marks: self.special_among(&spec.marks),
        };
        Ok((request, prompt_tail))
    }

    /// The special tokens that are spelled so.
    fn special_among(&self, texts: &[&str]) -> Vec<TokenId> {
        let ids = texts
            .iter()
            .filter_map(|text| self.tokenizer.token_id(text));
        ids.filter(|id| self.tokenizer.is_special(*id)).collect()
    }

    fn ends(&self, end_tokens: EndTokens, stop_tokens: &[TokenId]) -> Vec<TokenId> {
        let own: &[TokenId] = match end_tokens {
            EndTokens::Stop => self.tokenizer.end_tokens(),
            EndTokens::Ignore => &[],
        };
        own.iter().chain(stop_tokens).copied().collect()
    }

    fn output_max(
        &self,
        prompt: Tokens,
        (asked, default): (Option<Tokens>, Option<Tokens>),
    ) -> Result<Tokens, RequestError> {
        let limit = self.info.model_len;
        let room = limit.saturating_sub(prompt);
        let total = self.blocks_limit();
        let output = asked.unwrap_or_else(|| {
            // A pool that was made smaller than the context bounds what was not asked for by number.
            let slots = total.capacity(self.block_size).unwrap_or(limit).min(limit) + Tokens(1);
            let most = room.min(slots.saturating_sub(prompt)).max(Tokens(1));
            default.map_or(most, |default| default.min(most))
        });
        if output > room || prompt > limit {
            return Err(RequestError::ContextExceeded {
                limit,
                prompt,
                output,
            });
        }
        // Nothing is computed from the last output token, so it never needs a slot.
        let slots = prompt + output.saturating_sub(Tokens(1));
        let needed = slots.div_ceil(self.block_size);
        if needed > total {
            return Err(RequestError::PoolExceeded { needed, total });
        }
        Ok(output)
    }
}

/// Prompts are bounded by the context long before a count of them overflows.
fn tokens_of(len: usize) -> Tokens {
    Tokens(u32::try_from(len).unwrap_or(u32::MAX))
}
