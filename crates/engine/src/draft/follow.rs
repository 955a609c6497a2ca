//! What the draft model has computed of which sequence, and its forward pass.

use std::collections::BTreeMap;

use kvist_base::{Blocks, Bytes, SeqId, TokenId, Tokens};
use kvist_device::{CpuDevice, Device, DeviceMemory, KvCache, KvReaders, KvSpec};
use kvist_model::{Model, ModelError, Placement, StepShape};
use kvist_plan::{DraftSizes, Holding, Limits};

use super::blocks::{BlockStack, Table};
use super::file::DraftFile;
use crate::load::LoadError;
use crate::pack::{BatchLimits, BatchScratch, ChunkRows};

/// The draft model, loaded.
pub(crate) struct Drafter {
    device: CpuDevice,
    model: Box<dyn Model>,
    kv: KvCache,
    batch: BatchScratch,
    blocks: BlockStack,
    sizes: DraftSizes,
    /// The sequences it follows.
    seats: BTreeMap<SeqId, Seat>,
    /// Seats for as many more.
    spare: Vec<Seat>,
    /// A row of logits of the served model's vocabulary, where the draft model's table is shorter.
    row: Vec<f32>,
    vocab_len: usize,
}

/// What the draft model has of one sequence.
///
/// ```text
///          |--------known--------|--guesses--|
///          |-----computed_len----|--rows of the next step--|
/// ```
#[derive(Debug)]
struct Seat {
    table: Table,
    computed_len: usize,
    /// How many tokens were known when it guessed last.
    known_len: usize,
    /// Tokens guessed to follow them.
    guesses: Vec<TokenId>,
    /// No blocks were left for it, or it has a token the draft model lacks: it is not followed any more.
    is_given_up: bool,
}

/// A sequence the draft model may guess for, between steps.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Followed<'a> {
    pub(crate) id: SeqId,
    /// Known tokens.
    pub(crate) tokens: &'a [TokenId],
}

impl Drafter {
    /// Loads the model into a device beside `served`, in the sizes that are planned.
    pub(crate) fn load(
        draft: &DraftFile,
        (served, vocab_len): (&CpuDevice, usize),
        (sizes, limits): (DraftSizes, &Limits),
    ) -> Result<Self, LoadError> {
        let DraftFile { file, config, .. } = draft;
        let mut device = served.beside();
        let block_size = limits.block_size;
        let kv = device.alloc_kv(KvSpec {
            blocks: sizes.blocks.len(),
            block_size: block_size.len(),
            layers: config.layers,
            kv_heads: config.kv_heads,
            head_dim: config.head_dim,
            dtype: limits.kv_dtype,
            readers: KvReaders {
                heads: config.heads,
                tokens_max: sizes.rows_max.len(),
                context_max: sizes.len_max.len(),
            },
        })?;
        let sequences = sizes.sequences as usize;
        let each = sizes.len_max.div_ceil(block_size);
        let shape = StepShape {
            tokens_max: sizes.rows_max.len(),
            sequences_max: sequences,
            logit_rows_max: sequences,
            tables_max: each.len() * sequences,
        };
        let model = kvist_model::load(file, &mut device, shape, &Placement::default())?;
        let seat = || Seat {
            table: Table::with_capacity(each),
            computed_len: 0,
            known_len: 0,
            guesses: Vec::with_capacity(limits.draft_max.len()),
            is_given_up: false,
        };
        let is_short = config.vocab_len < vocab_len;
        Ok(Self {
            device,
            model,
            kv,
            batch: BatchScratch::new(BatchLimits {
                block_size,
                tokens_max: shape.tokens_max,
                sequences_max: shape.sequences_max,
                logit_rows_max: shape.logit_rows_max,
                tables_max: shape.tables_max,
            }),
            blocks: BlockStack::new(sizes.blocks, block_size),
            sizes,
            seats: BTreeMap::new(),
            spare: (0..sequences).map(|_| seat()).collect(),
            row: vec![f32::NEG_INFINITY; if is_short { vocab_len } else { 0 }],
            vocab_len,
        })
    }

    /// What its device holds.
    pub(crate) fn memory(&self) -> DeviceMemory {
        self.device.memory()
    }

    /// What its KV pool holds.
    pub(crate) fn kv_holding(&self) -> Holding {
        let held = self.blocks.total() - self.blocks.free();
        let each = Bytes::of_len(self.device.kv_block_bytes(self.kv));
        Holding {
            committed: self.device.kv_committed(self.kv),
            used: each * u64::from(held.0),
        }
    }

    /// Blocks free, and blocks in all.
    pub(crate) fn blocks(&self) -> (Blocks, Blocks) {
        (self.blocks.free(), self.blocks.total())
    }

    /// Gives the memory of free blocks back to the system.
    pub(crate) fn give_back(&mut self) -> Bytes {
        let runs = self.blocks.free_runs().into_iter();
        runs.map(|run| self.device.kv_release(self.kv, run)).sum()
    }

    /// Follows only these from now on. The seats of the others, and their blocks, are free.
    pub(crate) fn retain(&mut self, is_kept: impl Fn(SeqId) -> bool) {
        while let Some(id) = self.seats.keys().copied().find(|id| !is_kept(*id)) {
            let mut seat = self.seats.remove(&id).expect("just found");
            seat.clear(&mut self.blocks);
            seat.is_given_up = false;
            self.spare.push(seat);
        }
    }

    /// Takes in what is known of a sequence now, and says how many rows have to be computed before it
    /// can be guessed for; `None` if it is not followed: there is no seat, no block or no room in the
    /// context for it, or it has a token the draft model lacks.
    pub(crate) fn missing(&mut self, Followed { id, tokens }: Followed<'_>) -> Option<usize> {
        if tokens.len() >= self.sizes.len_max.len() {
            return None;
        }
        let Some(seat) = self.seats.get_mut(&id) else {
            return (!self.spare.is_empty()).then_some(tokens.len());
        };
        if seat.is_given_up {
            return None;
        }
        seat.settle(tokens);
        Some(tokens.len() - seat.computed_len)
    }

    /// Adds a guess behind what is known and guessed of a sequence that is followed.
    pub(crate) fn push_guess(&mut self, id: SeqId, token: TokenId) {
        let seat = self.seats.get_mut(&id).expect("it was computed for");
        seat.guesses.push(token);
    }

    /// Computes what is known and guessed of these sequences and not computed yet, as much as one step
    /// has rows for, in order. Returns how many rows that was. `is_ready` is told of each sequence, in
    /// order, whether it is computed to the end: of these there are logits.
    pub(crate) fn compute<'a>(
        &mut self,
        sequences: impl Iterator<Item = Followed<'a>>,
        mut is_ready: impl FnMut(bool),
    ) -> Result<Tokens, ModelError> {
        self.batch.clear();
        let mut rows_left = self.sizes.rows_max.len();
        for Followed { id, tokens } in sequences {
            is_ready(self.pack(id, tokens, &mut rows_left));
        }
        let batch = self.batch.batch();
        let rows = batch.tokens.len();
        if rows > 0 {
            self.model.forward(&mut self.device, self.kv, &batch)?;
        }
        Ok(Tokens(u32::try_from(rows).unwrap_or(u32::MAX)))
    }

    /// The logits of the `idx`th sequence that is ready, as long as the served model's vocabulary.
    pub(crate) fn logits(&mut self, idx: usize) -> Result<&[f32], ModelError> {
        let table_rows = self.model.config().vocab_len;
        let logits = self.device.read_f32(self.model.logits())?;
        let row = &logits[idx * table_rows..(idx + 1) * table_rows];
        if self.row.is_empty() {
            // Tables may be padded beyond the vocabulary: padding is never a token.
            return Ok(&row[..self.vocab_len]);
        }
        self.row[..table_rows].copy_from_slice(row);
        Ok(&self.row)
    }

    /// Adds the rows of one sequence to the step; true if they reach the end of what is guessed.
    fn pack(&mut self, id: SeqId, tokens: &[TokenId], rows_left: &mut usize) -> bool {
        let table_rows = self.model.config().vocab_len;
        let Some(seat) = seat(&mut self.seats, &mut self.spare, id) else {
            return false;
        };
        let wanted = tokens.len() + seat.guesses.len();
        let end = wanted.min(seat.computed_len + *rows_left);
        if seat.is_given_up || end == seat.computed_len || wanted > self.sizes.len_max.len() {
            return false;
        }
        // Tokens before these were looked at when they were computed, guesses are of its own table.
        let new = tokens.get(seat.computed_len..).unwrap_or_default();
        let is_known = |token: &TokenId| token.idx() < table_rows;
        if !new.iter().all(is_known) || !self.blocks.extend(&mut seat.table, count(end)) {
            seat.clear(&mut self.blocks);
            seat.is_given_up = true;
            return false;
        }
        self.batch.push(&ChunkRows {
            known: tokens,
            draft: &seat.guesses,
            block_table: seat.table.blocks(),
            start: count(seat.computed_len),
            end: count(end),
            logits_from: count(if end == wanted { end - 1 } else { end }),
        });
        *rows_left -= end - seat.computed_len;
        seat.known_len = tokens.len();
        seat.computed_len = end;
        end == wanted
    }
}

impl Seat {
    /// Forgets the guesses, and what was computed of them beyond what is known by now.
    fn settle(&mut self, tokens: &[TokenId]) {
        let said = tokens[self.known_len..].iter();
        let agreed = said
            .zip(&self.guesses)
            .take_while(|(said, guess)| said == guess)
            .count();
        self.computed_len = self.computed_len.min(self.known_len + agreed);
        // The last known token is computed again if it was guessed: its logits are wanted.
        self.computed_len = self.computed_len.min(tokens.len() - 1);
        self.known_len = tokens.len();
        self.guesses.clear();
    }

    /// Gives all blocks back and forgets everything.
    fn clear(&mut self, blocks: &mut BlockStack) {
        blocks.take_back(&mut self.table);
        self.computed_len = 0;
        self.known_len = 0;
        self.guesses.clear();
    }
}

/// The seat of a sequence, a new one if there is one left.
fn seat<'a>(
    seats: &'a mut BTreeMap<SeqId, Seat>,
    spare: &mut Vec<Seat>,
    id: SeqId,
) -> Option<&'a mut Seat> {
    use std::collections::btree_map::Entry;
    match seats.entry(id) {
        Entry::Occupied(seat) => Some(seat.into_mut()),
        Entry::Vacant(place) => Some(place.insert(spare.pop()?)),
    }
}

fn count(len: usize) -> Tokens {
    Tokens(u32::try_from(len).expect("a sequence's length is 32 bits"))
}
