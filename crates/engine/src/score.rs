//! How likely a model finds a given text: what perplexity is computed from.
//!
//! No scheduler, thread or sampler: one sequence at a time, computed in steps whose every row has
//! logits. The forward pass and its packing are those of the engine.

use std::fmt;
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;

use kvist_base::{BlockId, KvDtype, TokenId, Tokens};
use kvist_device::{CpuDevice, CpuOptions, Device, KvCache, KvReaders, KvSpec};
use kvist_kernels::Isa;
use kvist_model::{DecoderConfig, Model, ModelError, Placement, StepShape};
use kvist_plan::{Given, PlanError, PlanLimit};
use kvist_text::{SpecialText, TextError, Tokenizer, encode_prompt};
use kvist_weights::GgufFile;
use thiserror::Error;

use crate::load::LoadError;
use crate::pack::{BatchLimits, BatchScratch, ChunkRows};
use crate::vocab::vocab_spec;

/// Rows of one step. Every row has logits, so this bounds their memory.
const STEP_ROWS: usize = 128;
const BLOCK_SIZE: Tokens = Tokens(16);

/// A model loaded to score texts of up to one window.
pub struct Scorer {
    device: CpuDevice,
    model: Box<dyn Model>,
    kv: KvCache,
    batch: BatchScratch,
    /// The window's blocks, the same for every text.
    block_table: Vec<BlockId>,
    tokenizer: Arc<dyn Tokenizer>,
    window: Tokens,
}

impl fmt::Debug for Scorer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scorer")
            .field("window", &self.window)
            .finish_non_exhaustive()
    }
}

/// How to score texts.
#[derive(Clone, Copy, Debug)]
pub struct ScoreOptions {
    /// Threads that compute.
    pub threads: NonZeroUsize,
    /// Most tokens of a text.
    pub window: Tokens,
    /// How keys and values are stored between steps.
    pub kv_dtype: KvDtype,
    /// The instruction tier; `None` for the best there is.
    pub isa: Option<Isa>,
}

/// Why a text cannot be scored.
#[derive(Debug, Error)]
pub enum ScoreError {
    /// The text cannot be tokenised.
    #[error(transparent)]
    Text(#[from] TextError),
    /// More tokens than the scorer was loaded for.
    #[error("the window holds {limit}, but {given} are to be scored")]
    WindowExceeded {
        /// The window.
        limit: Tokens,
        /// Length of the text.
        given: Tokens,
    },
    /// A token id is not in the vocabulary.
    #[error("token id {given} is not in the vocabulary of {limit} tokens")]
    TokenOutOfRange {
        /// Vocabulary size.
        limit: usize,
        /// The offending id.
        given: u32,
    },
    /// The model's logits are not numbers: a damaged model, or our bug.
    #[error("numeric fault: the logits at position {position} are not finite")]
    NotFinite {
        /// Position in the window.
        position: usize,
    },
    /// The device failed.
    #[error(transparent)]
    Model(#[from] ModelError),
}

impl Scorer {
    /// Loads a model to score texts.
    ///
    /// # Errors
    /// [`LoadError`]; a window beyond the model's own context is [`LoadError::Limits`].
    pub fn load(path: &Path, options: &ScoreOptions) -> Result<Self, LoadError> {
        let ScoreOptions {
            threads,
            window,
            kv_dtype,
            isa,
        } = *options;
        let file = GgufFile::open(path)?;
        let config = kvist_model::open(&file)?;
        check_window(window, config.context_max)?;
        let tokenizer = kvist_text::from_vocab(vocab_spec(file.metadata())?)?;
        if tokenizer.vocab_len() > config.vocab_len {
            let (vocab_len, table_rows) = (tokenizer.vocab_len(), config.vocab_len);
            return Err(LoadError::VocabMismatch {
                vocab_len,
                table_rows,
            });
        }
        let isa = isa.unwrap_or_else(Isa::detect);
        let mut device = CpuDevice::new(CpuOptions { threads, isa })?;
        let blocks = window.div_ceil(BLOCK_SIZE);
        let kv = device.alloc_kv(kv_spec(&config, window, kv_dtype))?;
        let shape = StepShape {
            tokens_max: STEP_ROWS,
            sequences_max: STEP_ROWS,
            logit_rows_max: STEP_ROWS,
            tables_max: blocks.len(),
        };
        let model = kvist_model::load(&file, &mut device, shape, &Placement::default())?;
        let batch = BatchScratch::new(BatchLimits {
            block_size: BLOCK_SIZE,
            tokens_max: STEP_ROWS,
            sequences_max: STEP_ROWS,
            logit_rows_max: STEP_ROWS,
            tables_max: blocks.len(),
        });
        Ok(Self {
            device,
            model,
            kv,
            batch,
            block_table: (0..blocks.0).map(BlockId).collect(),
            tokenizer,
            window,
        })
    }

    /// Most tokens of a text.
    pub fn window(&self) -> Tokens {
        self.window
    }

    /// The token every text of this model begins with, if it is one of those models.
    pub fn bos_if_wanted(&self) -> Option<TokenId> {
        self.tokenizer.bos_if_wanted()
    }

    /// Tokens of a text that is not a prompt: spellings of special tokens in it are plain text, and
    /// it begins with BOS where the model wants that.
    ///
    /// # Errors
    /// [`ScoreError::Text`].
    pub fn tokenize(&self, text: &str) -> Result<Vec<TokenId>, ScoreError> {
        Ok(encode_prompt(&*self.tokenizer, text, SpecialText::Plain)?)
    }

    /// The negative natural logarithm of each token's probability, given all before it:
    /// entry `i` is about `tokens[i + 1]`. Nothing is remembered between calls.
    ///
    /// # Errors
    /// [`ScoreError`]. A device error leaves the scorer unusable.
    pub fn score(&mut self, tokens: &[TokenId]) -> Result<Vec<f64>, ScoreError> {
        self.check(tokens)?;
        // The last token predicts nothing that is known.
        let inputs = tokens.len().saturating_sub(1);
        let mut nlls = Vec::with_capacity(inputs);
        while nlls.len() < inputs {
            let start = nlls.len();
            let end = inputs.min(start + STEP_ROWS);
            self.forward(tokens, start, end)?;
            let logits = self
                .device
                .read_f32(self.model.logits())
                .map_err(ModelError::from)?;
            let rows = logits.chunks_exact(self.model.config().vocab_len);
            for (position, row) in (start..end).zip(rows) {
                // Embedding tables may be padded beyond the vocabulary: padding is never a token.
                let row = &row[..self.tokenizer.vocab_len()];
                let nll = negative_log_likelihood(row, tokens[position + 1]);
                if !nll.is_finite() {
                    return Err(ScoreError::NotFinite { position });
                }
                nlls.push(nll);
            }
        }
        Ok(nlls)
    }

    fn forward(&mut self, known: &[TokenId], start: usize, end: usize) -> Result<(), ScoreError> {
        let (start, end) = (tokens_of(start), tokens_of(end));
        self.batch.clear();
        self.batch.push(&ChunkRows {
            known,
            draft: &[],
            block_table: &self.block_table,
            start,
            end,
            logits_from: start,
        });
        let batch = self.batch.batch();
        Ok(self.model.forward(&mut self.device, self.kv, &batch)?)
    }

    fn check(&self, tokens: &[TokenId]) -> Result<(), ScoreError> {
        if tokens.len() > self.window.len() {
            return Err(ScoreError::WindowExceeded {
                limit: self.window,
                given: tokens_of(tokens.len()),
            });
        }
        let limit = self.tokenizer.vocab_len();
        match tokens.iter().find(|token| token.idx() >= limit) {
            Some(token) => Err(ScoreError::TokenOutOfRange {
                limit,
                given: token.0,
            }),
            None => Ok(()),
        }
    }
}

fn check_window(window: Tokens, context_max: Tokens) -> Result<(), PlanError> {
    let refused = |limit| PlanError {
        field: "window",
        limit,
        given: Given::Count(window.0.into()),
    };
    if window > context_max {
        return Err(refused(PlanLimit::ModelContext(context_max.0.into())));
    }
    if window.is_empty() {
        let max = context_max.0.into();
        return Err(refused(PlanLimit::Between { min: 1, max }));
    }
    Ok(())
}

fn kv_spec(config: &DecoderConfig, window: Tokens, dtype: KvDtype) -> KvSpec {
    KvSpec {
        blocks: window.div_ceil(BLOCK_SIZE).len(),
        block_size: BLOCK_SIZE.len(),
        layers: config.layers,
        kv_heads: config.kv_heads,
        head_dim: config.head_dim,
        dtype,
        readers: KvReaders {
            heads: config.heads,
            tokens_max: STEP_ROWS,
            context_max: window.len(),
        },
    }
}

/// `ln(sum of e^logit) - logit of the token`; not finite when a logit is not.
fn negative_log_likelihood(row: &[f32], token: TokenId) -> f64 {
    let peak = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = row
        .iter()
        .map(|logit| f64::from((logit - peak).exp()))
        .sum();
    sum.ln() + f64::from(peak) - f64::from(row[token.idx()])
}

/// Windows are counted in `Tokens`; a longer text is refused with a count that only has to be large.
fn tokens_of(len: usize) -> Tokens {
    Tokens(u32::try_from(len).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn likelihoods_are_those_of_the_softmax() {
        let row = [0.0, 2.0_f32.ln(), 5.0_f32.ln()];
        for (token, share) in [(0, 1.0 / 8.0), (1, 2.0 / 8.0), (2, 5.0_f64 / 8.0)] {
            let nll = negative_log_likelihood(&row, TokenId(token));
            assert!((nll + share.ln()).abs() < 1e-6, "{token}: {nll}");
        }
        let large = [1000.0, 1000.0];
        assert!((negative_log_likelihood(&large, TokenId(1)) - 2.0_f64.ln()).abs() < 1e-6);
    }

    #[test]
    fn a_logit_that_is_no_number_is_noticed() {
        for bad in [f32::NAN, f32::INFINITY] {
            assert!(!negative_log_likelihood(&[0.0, bad, 1.0], TokenId(0)).is_finite());
        }
    }

    #[test]
    fn windows_beyond_the_context_are_refused_with_both_numbers() {
        assert_eq!(check_window(Tokens(8), Tokens(8)), Ok(()));
        let refused = check_window(Tokens(9), Tokens(8)).unwrap_err();
        assert_eq!(refused.limit, PlanLimit::ModelContext(8));
        assert_eq!(refused.given, Given::Count(9));
        assert!(check_window(Tokens(0), Tokens(8)).is_err());
    }
}
