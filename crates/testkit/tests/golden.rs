//! A forward pass as plain as it can be, in f64, over the GGUF files the tiny models write: proof
//! that names, shapes, row order and rotary factors are what a reader of such files expects.
#![allow(clippy::unwrap_used, clippy::cast_precision_loss)]

use kvist_base::QuantFormat;
use kvist_testkit::tiny::TinyModel;
use kvist_weights::GgufFile;

/// A row-major matrix, or a vector of one row.
struct Matrix {
    weights: Vec<f64>,
    cols: usize,
}

impl Matrix {
    fn read(file: &GgufFile, name: &str) -> Option<Self> {
        let info = file.tensor(name)?;
        assert_eq!(info.format().unwrap(), QuantFormat::F32);
        let data = file.data(info).unwrap();
        let words = data.as_chunks::<4>().0.iter();
        let weights = words.map(|&word| f32::from_le_bytes(word).into()).collect();
        Some(Self {
            weights,
            cols: info.cols(),
        })
    }

    fn row(&self, idx: usize) -> &[f64] {
        &self.weights[idx * self.cols..][..self.cols]
    }

    fn times(&self, x: &[f64]) -> Vec<f64> {
        let rows = self.weights.chunks_exact(self.cols);
        rows.map(|row| row.iter().zip(x).map(|(w, x)| w * x).sum())
            .collect()
    }
}

struct Oracle {
    file: GgufFile,
    arch: String,
    layer_count: usize,
    head_len: usize,
    head_count: usize,
    kv_head_count: usize,
    rope_factors: Vec<f64>,
}

impl Oracle {
    fn new(file: GgufFile) -> Self {
        let arch = file
            .metadata()
            .require_str("general.architecture")
            .unwrap()
            .to_owned();
        let number = |key: &str| {
            file.metadata()
                .require_u32(&format!("{arch}.{key}"))
                .unwrap()
        };
        let head_count = number("attention.head_count") as usize;
        let layer_count = number("block_count") as usize;
        let head_len = number("embedding_length") as usize / head_count;
        let kv_head_count = number("attention.head_count_kv") as usize;
        let rope_factors = Matrix::read(&file, "rope_freqs.weight")
            .map_or(vec![1.0; head_len / 2], |factors| factors.weights);
        Self {
            file,
            arch,
            layer_count,
            head_len,
            head_count,
            kv_head_count,
            rope_factors,
        }
    }

    fn number(&self, key: &str) -> f64 {
        self.file
            .metadata()
            .require_f32(&format!("{}.{key}", self.arch))
            .unwrap()
            .into()
    }

    fn layer(&self, idx: usize, part: &str) -> Matrix {
        Matrix::read(&self.file, &format!("blk.{idx}.{part}.weight")).unwrap()
    }

    fn norm(&self, x: &[f64], gain: &Matrix) -> Vec<f64> {
        let mean_square = x.iter().map(|x| x * x).sum::<f64>() / x.len() as f64;
        let scale = (mean_square + self.number("attention.layer_norm_rms_epsilon")).sqrt();
        x.iter()
            .zip(&gain.weights)
            .map(|(x, gain)| x / scale * gain)
            .collect()
    }

    fn project(&self, idx: usize, part: &str, x: &[f64]) -> Vec<f64> {
        let mut y = self.layer(idx, part).times(x);
        if let Some(bias) = Matrix::read(&self.file, &format!("blk.{idx}.{part}.bias")) {
            y.iter_mut()
                .zip(&bias.weights)
                .for_each(|(y, bias)| *y += bias);
        }
        y
    }

    fn rotate(&self, heads: &mut [f64], position: usize) {
        let half = self.head_len / 2;
        for head in heads.chunks_exact_mut(self.head_len) {
            for pair in 0..half {
                let exponent = -2.0 * pair as f64 / self.head_len as f64;
                let frequency = self.number("rope.freq_base").powf(exponent);
                let angle = position as f64 * frequency / self.rope_factors[pair];
                let (sin, cos) = angle.sin_cos();
                let (a, b) = match self.arch.as_str() {
                    "qwen2" => (pair, pair + half),
                    _ => (2 * pair, 2 * pair + 1),
                };
                let (x, y) = (head[a], head[b]);
                head[a] = x * cos - y * sin;
                head[b] = x * sin + y * cos;
            }
        }
    }

    fn attention(&self, idx: usize, xs: &[Vec<f64>]) -> Vec<Vec<f64>> {
        let rotates = self.arch != "smollm3" || !(idx + 1).is_multiple_of(4);
        let project = |part, rotated| -> Vec<Vec<f64>> {
            let rows = xs.iter().enumerate().map(|(position, x)| {
                let mut row = self.project(idx, part, x);
                if rotated {
                    self.rotate(&mut row, position);
                }
                row
            });
            rows.collect()
        };
        let (queries, keys) = (project("attn_q", rotates), project("attn_k", rotates));
        let values = project("attn_v", false);
        let out = self.layer(idx, "attn_output");
        let rows = queries.iter().enumerate().map(|(position, query)| {
            let heads = (0..self.head_count).flat_map(|head| {
                let kv = head / (self.head_count / self.kv_head_count) * self.head_len;
                let query = &query[head * self.head_len..][..self.head_len];
                let scores = keys[..=position].iter().map(|key| {
                    let key = &key[kv..][..self.head_len];
                    let dot: f64 = query.iter().zip(key).map(|(q, k)| q * k).sum();
                    (dot / (self.head_len as f64).sqrt()).exp()
                });
                let scores: Vec<f64> = scores.collect();
                let total: f64 = scores.iter().sum();
                let values = &values;
                (0..self.head_len).map(move |i| {
                    scores
                        .iter()
                        .zip(values)
                        .map(|(score, v)| score * v[kv + i])
                        .sum::<f64>()
                        / total
                })
            });
            out.times(&heads.collect::<Vec<_>>())
        });
        rows.collect()
    }

    fn feed_forward(&self, idx: usize, x: &[f64]) -> Vec<f64> {
        let gate = self.project(idx, "ffn_gate", x);
        let up = self.project(idx, "ffn_up", x);
        let hidden: Vec<f64> = gate
            .iter()
            .zip(&up)
            .map(|(gate, up)| gate / (1.0 + (-gate).exp()) * up)
            .collect();
        self.project(idx, "ffn_down", &hidden)
    }

    /// Logits after every position.
    fn forward(&self, tokens: &[u32]) -> Vec<Vec<f64>> {
        let embedding = Matrix::read(&self.file, "token_embd.weight").unwrap();
        let mut xs: Vec<Vec<f64>> = tokens
            .iter()
            .map(|&token| embedding.row(token as usize).to_vec())
            .collect();
        let add = |xs: &mut Vec<Vec<f64>>, deltas: Vec<Vec<f64>>| {
            let all = xs.iter_mut().flatten().zip(deltas.into_iter().flatten());
            all.for_each(|(x, delta)| *x += delta);
        };
        for idx in 0..self.layer_count {
            let gain = self.layer(idx, "attn_norm");
            let normed: Vec<_> = xs.iter().map(|x| self.norm(x, &gain)).collect();
            add(&mut xs, self.attention(idx, &normed));
            let gain = self.layer(idx, "ffn_norm");
            let deltas = xs
                .iter()
                .map(|x| self.feed_forward(idx, &self.norm(x, &gain)));
            let deltas = deltas.collect();
            add(&mut xs, deltas);
        }
        let gain = Matrix::read(&self.file, "output_norm.weight").unwrap();
        let head = Matrix::read(&self.file, "output.weight").unwrap_or(embedding);
        xs.iter()
            .map(|x| head.times(&self.norm(x, &gain)))
            .collect()
    }
}

#[test]
fn written_files_reproduce_the_reference() {
    for name in TinyModel::NAMES {
        let model = TinyModel::load(name);
        let path = model.write_temporary("golden");
        let oracle = Oracle::new(GgufFile::open(&path).unwrap());
        std::fs::remove_dir_all(path.parent().unwrap()).unwrap();
        let golden = &model.golden;

        // One pass over prompt and continuation: each token is what greedy decoding would pick.
        let tokens = [&golden.input_ids[..], &golden.greedy].concat();
        let logits = oracle.forward(&tokens[..tokens.len() - 1]);
        for (&position, expected) in golden.positions.iter().zip(&golden.logits) {
            for (token, (given, &expected)) in logits[position].iter().zip(expected).enumerate() {
                let error = (given - f64::from(expected)).abs();
                assert!(
                    error < 1e-4,
                    "{name}: position {position}, token {token}: {error}"
                );
            }
        }
        for (step, &expected) in golden.greedy.iter().enumerate() {
            let row = &logits[golden.input_ids.len() - 1 + step];
            let best = (0..row.len())
                .max_by(|&a, &b| row[a].total_cmp(&row[b]))
                .unwrap();
            assert_eq!(best, expected as usize, "{name}: step {step}");
        }
    }
}

#[test]
fn sixteen_bit_files_hold_half_the_matrices() {
    let model = TinyModel::load("qwen2");
    let path = model.write_temporary("sixteen");
    let full = GgufFile::open(&path).unwrap().tensor_bytes();
    for format in [QuantFormat::F16, QuantFormat::BF16] {
        let path = path.with_extension(format.name());
        model.write_gguf(&path, format);
        let file = GgufFile::open(&path).unwrap();
        assert_eq!(
            file.tensor("output.weight").unwrap().format().unwrap(),
            format
        );
        let norm = file.tensor("output_norm.weight").unwrap();
        assert_eq!(norm.format().unwrap(), QuantFormat::F32);
        assert!(file.tensor_bytes().0 < full.0 * 52 / 100);
    }
    std::fs::remove_dir_all(path.parent().unwrap()).unwrap();
}

#[test]
fn an_encoder_stores_rows_in_its_format() {
    let model = TinyModel::load("smollm3");
    let path = model.write_temporary("encoder");
    let zeros = |row: &[f32]| vec![0; row.len() / 32 * 34];
    model.write_gguf_with(&path, QuantFormat::Q8_0, &zeros);
    let file = GgufFile::open(&path).unwrap();
    let matrix = file.tensor("blk.3.ffn_down.weight").unwrap();
    assert_eq!(matrix.format().unwrap(), QuantFormat::Q8_0);
    assert_eq!(
        (matrix.rows(), matrix.cols(), matrix.elements()),
        (64, 128, 64 * 128)
    );
    assert!(
        file.tensor("output.weight").is_none(),
        "smollm3 ties its embeddings"
    );
    std::fs::remove_dir_all(path.parent().unwrap()).unwrap();
}
