//! Compiled constraints of one model, for all its callers.

use std::fmt;
use std::io;
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use kvist_base::TokenId;
use kvist_grammar::{Cache, Compiler, Constraint, ConstraintError, Grammar, TokenRole, Vocabulary};
use kvist_text::Tokenizer;

use super::masks::MaskThread;
use super::sequence::Constrained;

/// How long compiling may take, waiting for others who compile included.
const COMPILE_TIME_MAX: Duration = Duration::from_secs(10);
/// Constraints compiled at one time.
const COMPILES_MAX: usize = 2;
/// Compiled constraints that are kept, in bytes.
const CACHE_BYTES_MAX: usize = 16 << 20;
/// The compiler follows nested schemas and chains of rules by recursion. Address range: what is not
/// needed is not touched.
const STACK_BYTES: usize = 64 << 20;

/// What constraints of one model share. Nothing is prepared before the first of them.
pub(crate) struct Constraints {
    tokenizer: Arc<dyn Tokenizer>,
    compiler: OnceLock<Result<Compiler, ConstraintError>>,
    masks: OnceLock<Option<MaskThread>>,
    cache: Mutex<Cache>,
    compiling: Mutex<usize>,
    finished: Condvar,
}

impl fmt::Debug for Constraints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Constraints").finish_non_exhaustive()
    }
}

/// Holders of these locks leave what they guard whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Constraints {
    pub(crate) fn new(tokenizer: Arc<dyn Tokenizer>) -> Self {
        Self {
            tokenizer,
            compiler: OnceLock::new(),
            masks: OnceLock::new(),
            cache: Mutex::new(Cache::new(CACHE_BYTES_MAX)),
            compiling: Mutex::new(0),
            finished: Condvar::new(),
        }
    }

    /// What a sequence under this constraint begins with.
    pub(crate) fn begin_sequence(
        self: &Arc<Self>,
        constraint: Constraint,
    ) -> Result<Constrained, ConstraintError> {
        let grammar = self.compile(constraint)?;
        Ok(Constrained::new(grammar, self.masks().cloned()))
    }

    /// The thread that computes masks; without one, they are computed where they are needed.
    fn masks(&self) -> Option<&MaskThread> {
        let start = || {
            let started = MaskThread::start();
            started
                .inspect_err(|error| tracing::warn!(%error, "no thread for grammar masks"))
                .ok()
        };
        self.masks.get_or_init(start).as_ref()
    }

    /// Compiles on a thread of its own and waits for it; takes what is kept, if it is.
    fn compile(self: &Arc<Self>, constraint: Constraint) -> Result<Arc<Grammar>, ConstraintError> {
        if let Some(grammar) = lock(&self.cache).get(&constraint) {
            return Ok(grammar);
        }
        // Not part of the constraint's time: all that come first wait for it.
        if let Err(error) = self.compiler() {
            return Err(error.clone());
        }
        let too_slow = ConstraintError::TooSlow {
            what: "constraint",
            limit_seconds: COMPILE_TIME_MAX.as_secs(),
        };
        let deadline = Instant::now() + COMPILE_TIME_MAX;
        if !self.begin(deadline) {
            return Err(too_slow);
        }
        let (reply, answer) = sync_channel(1);
        if let Err(error) = self.spawn(constraint, reply) {
            self.end();
            return Err(ConstraintError::Invalid {
                what: "constraint",
                reason: format!("no thread to compile it on: {error}"),
            });
        }
        let left = deadline.saturating_duration_since(Instant::now());
        match answer.recv_timeout(left) {
            Ok(result) => result,
            Err(RecvTimeoutError::Timeout) => Err(too_slow),
            Err(RecvTimeoutError::Disconnected) => Err(ConstraintError::Invalid {
                what: "constraint",
                reason: "the compiler failed".to_owned(),
            }),
        }
    }

    fn spawn(
        self: &Arc<Self>,
        constraint: Constraint,
        reply: SyncSender<Result<Arc<Grammar>, ConstraintError>>,
    ) -> io::Result<()> {
        let this = Arc::clone(self);
        let work = move || {
            let place = Compiling(&this);
            let compiled = match this.compiler() {
                Ok(compiler) => compiler.compile(&constraint).map(Arc::new),
                Err(error) => Err(error.clone()),
            };
            if let Ok(grammar) = &compiled {
                lock(&this.cache).insert(constraint, Arc::clone(grammar));
            }
            drop(place);
            // Who waited too long has gone.
            let _ = reply.send(compiled);
        };
        let thread = thread::Builder::new().name("kvist-compile".to_owned());
        thread.stack_size(STACK_BYTES).spawn(work).map(drop)
    }

    fn compiler(&self) -> &Result<Compiler, ConstraintError> {
        self.compiler
            .get_or_init(|| Compiler::new(|| vocabulary(&*self.tokenizer)))
    }

    /// Takes one of the places to compile; `false` at the deadline.
    fn begin(&self, deadline: Instant) -> bool {
        let mut count = lock(&self.compiling);
        while *count == COMPILES_MAX {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            let waited = self.finished.wait_timeout(count, left);
            count = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        *count += 1;
        true
    }

    fn end(&self) {
        *lock(&self.compiling) -= 1;
        self.finished.notify_one();
    }
}

/// A place to compile, given back when dropped: also by a compiler that panics.
struct Compiling<'a>(&'a Constraints);

impl Drop for Compiling<'_> {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// The vocabulary as outputs are written with it.
pub(super) fn vocabulary(tokenizer: &dyn Tokenizer) -> Vocabulary {
    let vocab_len = u32::try_from(tokenizer.vocab_len()).expect("token ids are 32 bits wide");
    Vocabulary::new((0..vocab_len).map(TokenId).map(|token| {
        let role = if tokenizer.is_end(token) {
            TokenRole::End
        } else if tokenizer.is_special(token) {
            TokenRole::Control
        } else {
            TokenRole::Text
        };
        (tokenizer.token_bytes(token).unwrap_or_default(), role)
    }))
}
