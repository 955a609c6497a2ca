//! What the operator can change so that a model fits. Each way out is enough on its own: it was
//! planned again with the change, and fitted.

use std::fmt;

use kvist_base::{Bytes, KvDtype, Tokens};
use serde::Serialize;

use crate::budget::{SAFETY_MAX, budget_max, safety};
use crate::devices::Devices;
use crate::limits::{Limits, MemoryLimit, Offload};
use crate::lines::{bytes_per_sequence, bytes_per_step_token};
use crate::machine::Machine;
use crate::planner::{MODEL_LEN_MIN, Place, Terms};
use crate::scheme::WeightScheme;
use crate::serial;
use crate::shape::ModelShape;

/// Steps shorter than this waste most of every pass over the weights.
const STEP_TOKENS_MIN: u64 = 32;
/// Ways out shown: more are no help.
const SHOWN_MAX: usize = 3;
/// The largest share of a device to suggest, in hundredths.
const SHARE_PERCENT_MAX: u32 = 95;
/// The most devices to suggest: those of one machine.
const DEVICES_SHOWN_MAX: u32 = 8;
/// KV dtypes to offer, one for each size, widest first.
const KV_DTYPES: [KvDtype; 3] = [KvDtype::F32, KvDtype::F16, KvDtype::Q8_0];
/// Encodings a file with more bits a weight can be replaced by, with the bits they need.
const LIGHTER: [(WeightScheme, f64); 2] = [(WeightScheme::Q8_0, 8.5), (WeightScheme::Q4KM, 5.5)];

/// One change that makes the model fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum WayOut {
    /// Do without the model that drafts.
    NoDraftModel,
    /// Ask for a smaller KV pool.
    SmallerPool {
        /// The largest that fits, in whole mebibytes.
        #[serde(serialize_with = "serial::bytes")]
        kv_cache: Bytes,
    },
    /// Ask for a shorter context.
    SmallerContext {
        /// The longest that fits.
        #[serde(serialize_with = "serial::tokens")]
        model_len: Tokens,
    },
    /// Keep keys and values in fewer bits.
    LighterKv {
        /// How.
        #[serde(serialize_with = "serial::text")]
        kv_dtype: KvDtype,
        /// What a token takes then.
        #[serde(serialize_with = "serial::bytes")]
        bytes_per_token: Bytes,
    },
    /// Run fewer sequences at once.
    FewerSequences {
        /// The most that fit.
        running_max: u32,
    },
    /// Compute fewer tokens a step.
    SmallerStep {
        /// The most that fit.
        #[serde(serialize_with = "serial::tokens")]
        step_tokens_max: Tokens,
    },
    /// Allow more of the memory that is there.
    RaiseBudget {
        /// The least that is enough, in whole mebibytes.
        #[serde(serialize_with = "serial::bytes")]
        memory: Bytes,
    },
    /// Stream layers from the file.
    StreamLayers {
        /// How many.
        layers: u32,
        /// What a step reads for them.
        #[serde(serialize_with = "serial::bytes")]
        bytes: Bytes,
    },
    /// Use a file of the model with fewer bits a weight.
    LighterWeights {
        /// How it is encoded.
        scheme: WeightScheme,
        /// What its weights take.
        #[serde(serialize_with = "serial::bytes")]
        bytes: Bytes,
    },
    /// Allow more of each device's memory.
    RaiseShare {
        /// The least that is enough, in hundredths.
        percent: u32,
    },
    /// Split the model over more devices.
    MoreDevices {
        /// How many in all.
        count: u32,
    },
    /// Use devices with more memory.
    LargerDevices {
        /// The least of each, with the largest share of it.
        #[serde(serialize_with = "serial::bytes")]
        memory: Bytes,
    },
    /// Free memory, or use a larger machine or container.
    MoreMemory {
        /// How much has to be available.
        #[serde(serialize_with = "serial::bytes")]
        available: Bytes,
        /// The budget to set then, in whole mebibytes.
        #[serde(serialize_with = "serial::bytes")]
        memory: Bytes,
    },
}

impl fmt::Display for WayOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoDraftModel => f.write_str("no draft model: the same without --draft"),
            Self::SmallerPool { kv_cache } => {
                let kv_cache = mebibytes(*kv_cache);
                write!(
                    f,
                    "a smaller KV pool: --kv-cache-memory-bytes {kv_cache}MiB"
                )
            }
            Self::SmallerContext { model_len } => {
                write!(f, "a shorter context: --max-model-len {}", model_len.0)
            }
            Self::LighterKv {
                kv_dtype,
                bytes_per_token,
            } => {
                write!(
                    f,
                    "a lighter KV cache, {bytes_per_token} a token: --kv-cache-dtype {kv_dtype}"
                )
            }
            Self::FewerSequences { running_max } => {
                write!(f, "fewer sequences at once: --max-num-seqs {running_max}")
            }
            Self::SmallerStep { step_tokens_max } => {
                let tokens = step_tokens_max.0;
                write!(f, "smaller steps: --max-num-batched-tokens {tokens}")
            }
            Self::RaiseBudget { memory } => {
                write!(f, "a larger budget: --memory {}MiB", mebibytes(*memory))
            }
            Self::StreamLayers { layers, bytes } => write!(
                f,
                "{layers} layers streamed from the file, {bytes} in every step: --offload-weights"
            ),
            Self::LighterWeights { scheme, bytes } => {
                let name = scheme.name();
                write!(
                    f,
                    "fewer bits a weight: a {name} file of this model would be about {bytes}"
                )
            }
            Self::RaiseShare { percent } => {
                let share = f64::from(*percent) / 100.0;
                write!(f, "more of each device: --gpu-memory-utilization {share}")
            }
            Self::MoreDevices { count } => write!(f, "more devices: --devices {count}"),
            Self::LargerDevices { memory } => {
                let share = f64::from(SHARE_PERCENT_MAX) / 100.0;
                write!(
                    f,
                    "devices of {memory}, with --gpu-memory-utilization {share}"
                )
            }
            Self::MoreMemory { available, memory } => {
                let memory = mebibytes(*memory);
                write!(
                    f,
                    "{available} of available memory, with --memory {memory}MiB"
                )
            }
        }
    }
}

fn mebibytes(bytes: Bytes) -> u64 {
    bytes.0.div_ceil(Bytes::MIB.0)
}

/// By how much a model does not fit.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shortage {
    /// Memory for one sequence of the length wanted, or for the pool asked for.
    pub needed: Bytes,
    /// Memory there is.
    pub budget: Bytes,
    /// Tokens the KV pool could hold in what the other lines leave.
    pub room: Tokens,
    /// The pool these would be.
    pub room_bytes: Bytes,
}

impl Shortage {
    pub(crate) fn shortfall(&self) -> Bytes {
        self.needed.saturating_sub(self.budget)
    }

    /// How many of `count` have to go when each gives back `bytes_each`; `None` if less than
    /// `count_min` would be left.
    fn reduce(&self, count: u32, count_min: u64, bytes_each: Bytes) -> Option<u32> {
        let surplus = self.shortfall().0.div_ceil(bytes_each.0);
        let left = u64::from(count).checked_sub(surplus)?;
        u32::try_from(left).ok().filter(|_| left >= count_min)
    }
}

/// What is planned.
#[derive(Clone, Copy)]
pub(crate) struct Inputs<'a> {
    pub model: &'a ModelShape,
    pub place: Place<'a>,
    pub limits: &'a Limits,
}

/// The single changes that make up for `shortage`, the cheapest for the user first.
pub(crate) fn ways_out(shortage: &Shortage, inputs: Inputs<'_>) -> Vec<WayOut> {
    let Inputs { model, limits, .. } = inputs;
    let settings = [
        (limits.draft_model.is_some()).then_some(WayOut::NoDraftModel),
        smaller_pool(shortage, limits),
        smaller_context(shortage, limits),
        lighter_kv(model, limits),
        fewer_sequences(shortage, model, limits),
        smaller_step(shortage, model, limits),
    ];
    let weights = [stream_layers(inputs), lighter_weights(inputs)];
    let (more, buy) = more_memory(shortage, inputs);
    let all = settings
        .into_iter()
        .chain([more])
        .chain(weights)
        .chain(buy.into_iter().map(Some));
    let enough = all.flatten().filter(|way_out| way_out.is_enough(inputs));
    enough.take(SHOWN_MAX).collect()
}

fn smaller_pool(shortage: &Shortage, limits: &Limits) -> Option<WayOut> {
    limits.kv_cache?;
    let kv_cache = Bytes::MIB * (shortage.room_bytes.0 / Bytes::MIB.0);
    (kv_cache > Bytes::ZERO).then_some(WayOut::SmallerPool { kv_cache })
}

fn smaller_context(shortage: &Shortage, limits: &Limits) -> Option<WayOut> {
    limits
        .model_len
        .filter(|_| shortage.room >= MODEL_LEN_MIN)?;
    let model_len = shortage.room;
    Some(WayOut::SmallerContext { model_len })
}

/// The dtype with the most bits below the one in use.
fn lighter_kv(model: &ModelShape, limits: &Limits) -> Option<WayOut> {
    let bytes = |dtype: &KvDtype| model.kv_bytes_per_token(*dtype);
    let now = bytes(&limits.kv_dtype);
    let lighter = KV_DTYPES.into_iter().filter(|dtype| bytes(dtype) < now);
    let kv_dtype = lighter.max_by_key(bytes)?;
    let bytes_per_token = bytes(&kv_dtype);
    Some(WayOut::LighterKv {
        kv_dtype,
        bytes_per_token,
    })
}

fn fewer_sequences(shortage: &Shortage, model: &ModelShape, limits: &Limits) -> Option<WayOut> {
    let running_max = shortage.reduce(limits.running_max, 1, bytes_per_sequence(model))?;
    Some(WayOut::FewerSequences { running_max })
}

fn smaller_step(shortage: &Shortage, model: &ModelShape, limits: &Limits) -> Option<WayOut> {
    let each = bytes_per_step_token(model);
    let tokens = shortage.reduce(limits.step_tokens_max.0, STEP_TOKENS_MIN, each)?;
    let step_tokens_max = Tokens(tokens);
    Some(WayOut::SmallerStep { step_tokens_max })
}

fn stream_layers(inputs: Inputs<'_>) -> Option<WayOut> {
    if inputs.limits.offload != Offload::Off || matches!(inputs.place, Place::Devices(_)) {
        return None;
    }
    let limits = streaming(inputs.limits);
    let offload = Terms::new(Inputs {
        limits: &limits,
        ..inputs
    })
    .ok()?
    .choose_offload();
    let layers = u32::try_from(offload.layers.len()).ok()?;
    let bytes = offload.bytes;
    (layers > 0).then_some(WayOut::StreamLayers { layers, bytes })
}

fn streaming(limits: &Limits) -> Limits {
    Limits {
        offload: Offload::Auto,
        ..limits.clone()
    }
}

/// The encoding with the most bits that fits, for a file with more.
fn lighter_weights(inputs: Inputs<'_>) -> Option<WayOut> {
    let bits = inputs.model.bits_per_weight()?;
    let lighter = LIGHTER.into_iter().filter(|(_, needed)| bits > *needed);
    let way_out = |(scheme, _)| {
        let bytes = inputs.model.quantised(scheme).weight_bytes();
        WayOut::LighterWeights { scheme, bytes }
    };
    lighter
        .map(way_out)
        .find(|way_out| way_out.is_enough(inputs))
}

/// What the memory that is there allows, and what there would have to be.
fn more_memory(shortage: &Shortage, inputs: Inputs<'_>) -> (Option<WayOut>, Vec<WayOut>) {
    let needed = shortage.needed;
    match inputs.place {
        Place::Host(machine) => match more_host_memory(needed, machine) {
            raise @ WayOut::RaiseBudget { .. } => (Some(raise), Vec::new()),
            more => (None, vec![more]),
        },
        Place::Devices(devices) => (raise_share(needed, devices), more_devices(needed, devices)),
    }
}

/// The budget to ask for if the machine has it, or how much it would have to have.
fn more_host_memory(needed: Bytes, machine: &Machine) -> WayOut {
    let memory = Bytes::MIB * mebibytes(needed);
    if memory <= budget_max(machine) {
        return WayOut::RaiseBudget { memory };
    }
    // What is left to the system grows with its memory, so it is reckoned for enough of it,
    // and for the machine itself in case the way out is to lift a container's limit.
    let total = machine.mem_total.max(memory + SAFETY_MAX);
    WayOut::MoreMemory {
        available: memory + safety(total),
        memory,
    }
}

fn raise_share(needed: Bytes, devices: Devices) -> Option<WayOut> {
    let percent = u128::from(needed.0) * 100 / u128::from(devices.memory.0) + 1;
    let percent = u32::try_from(percent)
        .ok()
        .filter(|percent| *percent <= SHARE_PERCENT_MAX)?;
    Some(WayOut::RaiseShare { percent })
}

/// Twice as many devices, four times, and so on; and after these, larger ones.
fn more_devices(needed: Bytes, devices: Devices) -> Vec<WayOut> {
    let doubled = std::iter::successors(devices.count.checked_mul(2), |count| count.checked_mul(2));
    let doubled = doubled.take_while(|count| *count <= DEVICES_SHOWN_MAX);
    let larger = u128::from(needed.0) * 100 / u128::from(SHARE_PERCENT_MAX);
    let larger = Bytes(u64::try_from(larger).unwrap_or(u64::MAX));
    let memory = Bytes::GIB * (larger.0 / Bytes::GIB.0 + 1);
    let more = doubled.map(|count| WayOut::MoreDevices { count });
    more.chain([WayOut::LargerDevices { memory }]).collect()
}

impl WayOut {
    /// Whether the model fits with this one change.
    fn is_enough(self, inputs: Inputs<'_>) -> bool {
        let (mut model, mut larger) = (None, None);
        let (mut limits, mut place) = (inputs.limits.clone(), inputs.place);
        match self {
            Self::NoDraftModel => limits.draft_model = None,
            Self::SmallerPool { kv_cache } => limits.kv_cache = Some(kv_cache),
            Self::SmallerContext { model_len } => limits.model_len = Some(model_len),
            Self::LighterKv { kv_dtype, .. } => limits.kv_dtype = kv_dtype,
            Self::FewerSequences { running_max } => limits.running_max = running_max,
            Self::SmallerStep { step_tokens_max } => limits.step_tokens_max = step_tokens_max,
            Self::RaiseBudget { memory } => limits.memory = MemoryLimit::Absolute(memory),
            Self::StreamLayers { .. } => limits.offload = Offload::Auto,
            Self::LighterWeights { scheme, .. } => model = Some(inputs.model.quantised(scheme)),
            Self::MoreMemory { available, memory } => {
                larger = match inputs.place {
                    Place::Host(machine) => Some(machine.with_available(available)),
                    Place::Devices(_) => return false,
                };
                limits.memory = MemoryLimit::Absolute(memory);
            }
            Self::RaiseShare { percent } => {
                limits.memory = MemoryLimit::Fraction(f64::from(percent) / 100.0);
            }
            Self::MoreDevices { .. } | Self::LargerDevices { .. } => {
                let Place::Devices(devices) = &mut place else {
                    return false;
                };
                match self {
                    Self::MoreDevices { count } => devices.count = count,
                    Self::LargerDevices { memory } => {
                        devices.memory = memory;
                        let share = f64::from(SHARE_PERCENT_MAX) / 100.0;
                        limits.memory = MemoryLimit::Fraction(share);
                    }
                    _ => return false,
                }
            }
        }
        let changed = Inputs {
            model: model.as_ref().unwrap_or(inputs.model),
            place: larger.as_ref().map_or(place, Place::Host),
            limits: &limits,
        };
        Terms::new(changed).is_ok_and(|terms| terms.fits())
    }
}
