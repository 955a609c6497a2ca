//! What the families share: attention with rotation over paged KV, the gated MLP, and the stream
//! they both write to.

use kvist_device::{
    AttentionOp, Buf, Device, Epilogue, ForwardBatch, GatedOp, KvCache, KvWriteOp, MatmulOp, Op,
    Projection, QkvOp, RopeOp, RopeStyle, Weight,
};

use crate::binding::Binder;
use crate::config::DecoderConfig;
use crate::error::ModelError;
use crate::step::{StepBuffers, StepShape};

/// A matrix and what is added to its product.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Linear {
    pub(crate) weight: Weight,
    pub(crate) bias: Option<Buf>,
}

/// One layer: attention and MLP, each with the norm before it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layer {
    pub(crate) attn_norm: Buf,
    pub(crate) q: Linear,
    pub(crate) k: Linear,
    pub(crate) v: Linear,
    pub(crate) attn_out: Linear,
    pub(crate) ffn_norm: Buf,
    pub(crate) gate: Weight,
    pub(crate) up: Weight,
    pub(crate) down: Weight,
}

/// Whether q, k and v carry biases in this family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum QkvBias {
    /// A file without them is broken.
    Required,
    /// Some files have them.
    Optional,
}

impl Layer {
    pub(crate) fn bind(
        binder: &mut Binder<'_>,
        config: &DecoderConfig,
        (idx, qkv_bias): (usize, QkvBias),
    ) -> Result<Self, ModelError> {
        let name = |part: &str| format!("blk.{idx}.{part}");
        let (dim, ffn, q_dim, kv_dim) =
            (config.dim, config.ffn_dim, config.q_dim(), config.kv_dim());
        let mut linear = |part: &str, rows: usize, cols: usize, bias: QkvBias| {
            let weight =
                binder.layer_matrix(idx, &name(&format!("{part}.weight")), (rows, cols))?;
            let bias_name = name(&format!("{part}.bias"));
            let bias = match bias {
                QkvBias::Required => Some(binder.vector(&bias_name, rows)?),
                QkvBias::Optional => binder.opt_vector(&bias_name, rows)?,
            };
            Ok::<_, ModelError>(Linear { weight, bias })
        };
        let q = linear("attn_q", q_dim, dim, qkv_bias)?;
        let k = linear("attn_k", kv_dim, dim, qkv_bias)?;
        let v = linear("attn_v", kv_dim, dim, qkv_bias)?;
        let attn_out = linear("attn_output", dim, q_dim, QkvBias::Optional)?;
        Ok(Self {
            attn_norm: binder.vector(&name("attn_norm.weight"), dim)?,
            q,
            k,
            v,
            attn_out,
            ffn_norm: binder.vector(&name("ffn_norm.weight"), dim)?,
            gate: binder.layer_matrix(idx, &name("ffn_gate.weight"), (ffn, dim))?,
            up: binder.layer_matrix(idx, &name("ffn_up.weight"), (ffn, dim))?,
            down: binder.layer_matrix(idx, &name("ffn_down.weight"), (dim, ffn))?,
        })
    }
}

/// What surrounds the layers: table, last norm, head, rotation frequencies, step memory.
#[derive(Debug)]
pub(crate) struct Trunk {
    pub(crate) config: DecoderConfig,
    pub(crate) buffers: StepBuffers,
    table: Weight,
    norm: Buf,
    head: Weight,
    inv_freq: Buf,
    /// The step's operations; kept so that a step allocates nothing.
    ops: Vec<Op>,
}

impl Trunk {
    pub(crate) fn bind(
        binder: &mut Binder<'_>,
        config: DecoderConfig,
        shape: StepShape,
    ) -> Result<Self, ModelError> {
        let (table, head) = binder.embedding_and_head((config.vocab_len, config.dim))?;
        let norm = binder.vector("output_norm.weight", config.dim)?;
        let mut inv_freq = config.inv_freq();
        // Llama 3 stores how far each frequency was slowed down for long contexts.
        if let Some(factors) = binder.opt_values("rope_freqs.weight", inv_freq.len())? {
            inv_freq
                .iter_mut()
                .zip(factors)
                .for_each(|(freq, factor)| *freq /= factor);
        }
        let inv_freq = binder.upload("rotation frequencies", &inv_freq)?;
        let buffers = StepBuffers::alloc(binder.device(), &config, shape)?;
        binder.device().reserve(shape.tokens_max)?;
        Ok(Self {
            config,
            buffers,
            table,
            norm,
            head,
            inv_freq,
            ops: Vec::new(),
        })
    }

    /// Writes the batch to the device, lets `layers` add its operations between embedding and head,
    /// and runs the whole list.
    pub(crate) fn run(
        &mut self,
        device: &mut dyn Device,
        batch: &ForwardBatch<'_>,
        layers: impl FnOnce(&mut Pass<'_>),
    ) -> Result<(), ModelError> {
        self.buffers.write(device, batch)?;
        self.ops.clear();
        let mut pass = Pass {
            ops: &mut self.ops,
            config: &self.config,
            buffers: &self.buffers,
            n: batch.tokens.len(),
            sequences: batch.spans.len(),
            tables_len: batch.block_tables.len(),
        };
        pass.embed(self.table, self.inv_freq);
        layers(&mut pass);
        pass.head(self.norm, self.head, batch.logit_rows.len());
        Ok(device.run(&self.ops)?)
    }
}

/// A forward pass being written down: each method appends the operations of one block.
pub(crate) struct Pass<'a> {
    ops: &'a mut Vec<Op>,
    config: &'a DecoderConfig,
    buffers: &'a StepBuffers,
    /// Rows of the batch.
    n: usize,
    sequences: usize,
    tables_len: usize,
}

/// How a layer rotates its queries and keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rotation {
    /// By position.
    By(RopeStyle),
    /// Not at all: positions come from the other layers.
    None,
}

impl Pass<'_> {
    fn embed(&mut self, table: Weight, inv_freq: Buf) {
        let b = self.buffers;
        let half = self.config.head_dim / 2;
        self.ops.push(Op::Embed {
            table,
            tokens: b.tokens,
            out: b.x,
            n: self.n,
        });
        self.ops.push(Op::RopeAngles {
            positions: b.positions,
            inv_freq,
            cos: b.cos,
            sin: b.sin,
            n: self.n,
            half,
        });
    }

    /// `x += W_o attention(rope(W_q h), rope(W_k h), W_v h)`, `h = norm(x)`
    pub(crate) fn attention(
        &mut self,
        layer: &Layer,
        (idx, kv): (usize, KvCache),
        rotation: Rotation,
    ) {
        let b = self.buffers;
        let c = self.config;
        self.norm(b.x, layer.attn_norm, b.normed, self.n);
        let to = |Linear { weight, bias }, out| Projection { weight, bias, out };
        self.ops.push(Op::Qkv(QkvOp {
            x: b.normed,
            n: self.n,
            projections: [to(layer.q, b.q), to(layer.k, b.k), to(layer.v, b.v)],
        }));
        if let Rotation::By(style) = rotation {
            self.rope(b.q, c.heads, style);
            self.rope(b.k, c.kv_heads, style);
        }
        self.ops.push(Op::KvWrite(KvWriteOp {
            kv,
            layer: idx,
            k: b.k,
            v: b.v,
            slots: b.slots,
            n: self.n,
        }));
        #[allow(clippy::cast_precision_loss)] // at most 256
        let scale = 1.0 / (c.head_dim as f32).sqrt();
        self.ops.push(Op::Attention(AttentionOp {
            kv,
            layer: idx,
            q: b.q,
            spans: b.spans,
            sequences: self.sequences,
            block_tables: b.block_tables,
            tables_len: self.tables_len,
            out: b.attended,
            n: self.n,
            heads: c.heads,
            scale,
        }));
        self.add_linear(layer.attn_out, b.attended, b.x);
    }

    /// `x += W_down (silu(W_gate h) * W_up h)`, `h = norm(x)`
    pub(crate) fn mlp(&mut self, layer: &Layer) {
        let b = self.buffers;
        self.norm(b.x, layer.ffn_norm, b.normed, self.n);
        self.ops.push(Op::Gated(GatedOp {
            gate: layer.gate,
            up: layer.up,
            x: b.normed,
            out: b.gate,
            n: self.n,
        }));
        let down = Linear {
            weight: layer.down,
            bias: None,
        };
        self.add_linear(down, b.gate, b.x);
    }

    /// Logits, of the rows that want them only: the head is the largest matrix of small models.
    fn head(&mut self, norm: Buf, head: Weight, rows: usize) {
        if rows == 0 {
            return;
        }
        let b = self.buffers;
        let dim = self.config.dim;
        self.ops.push(Op::GatherRows {
            x: b.x,
            rows: b.logit_rows,
            out: b.last,
            n: rows,
            dim,
        });
        self.norm(b.last, norm, b.normed, rows);
        self.ops.push(Op::Matmul(MatmulOp {
            weight: head,
            bias: None,
            x: b.normed,
            out: b.logits,
            n: rows,
            epilogue: Epilogue::Store,
        }));
    }

    fn norm(&mut self, x: Buf, weight: Buf, out: Buf, n: usize) {
        let (dim, eps) = (self.config.dim, self.config.norm_eps);
        self.ops.push(Op::RmsNorm {
            x,
            weight,
            out,
            n,
            dim,
            eps,
        });
    }

    /// `out += W x + bias`
    fn add_linear(&mut self, linear: Linear, x: Buf, out: Buf) {
        let Linear { weight, bias } = linear;
        self.ops.push(Op::Matmul(MatmulOp {
            weight,
            bias,
            x,
            out,
            n: self.n,
            epilogue: Epilogue::Accumulate,
        }));
    }

    fn rope(&mut self, x: Buf, heads: usize, style: RopeStyle) {
        let (cos, sin) = (self.buffers.cos, self.buffers.sin);
        let head_dim = self.config.head_dim;
        self.ops.push(Op::Rope(RopeOp {
            x,
            cos,
            sin,
            n: self.n,
            heads,
            head_dim,
            style,
        }));
    }
}
