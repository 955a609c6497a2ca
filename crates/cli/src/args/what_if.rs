//! What to plan besides the model as it is, on this machine.

use clap::{Args, ValueEnum};
use kvist_base::Bytes;
use kvist_engine::WhatIf;
use kvist_plan::{Devices, WeightScheme};

/// What to plan besides the model as it is, on this machine.
#[derive(Args, Clone, Copy, Debug, Default)]
#[command(next_help_heading = "What if")]
pub struct WhatIfArgs {
    /// Plan with the weights encoded otherwise.
    #[arg(long, value_enum, value_name = "SCHEME")]
    pub quantize: Option<Scheme>,
    /// Plan for devices with so much memory each, such as 24GiB. --gpu-memory-utilization is of it.
    #[arg(long, value_name = "SIZE")]
    pub device_memory: Option<Bytes>,
    /// How many such devices share the model.
    #[arg(
        long,
        value_name = "COUNT",
        default_value_t = 1,
        requires = "device_memory"
    )]
    pub devices: u32,
}

/// How weights can be encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[allow(missing_docs)] // each is the name of a published scheme
#[value(rename_all = "snake_case")]
pub enum Scheme {
    Bf16,
    #[value(name = "q8_0")]
    Q8_0,
    #[value(name = "q4_k_m")]
    Q4KM,
    Int8,
    Fp8,
    Gptq,
    Awq,
    Nf4,
}

impl WhatIfArgs {
    /// The same in the engine's terms.
    pub fn what_if(&self) -> WhatIf {
        let count = self.devices;
        WhatIf {
            scheme: self.quantize.map(Scheme::scheme),
            devices: self.device_memory.map(|memory| Devices { count, memory }),
        }
    }
}

impl Scheme {
    fn scheme(self) -> WeightScheme {
        match self {
            Self::Bf16 => WeightScheme::Bf16,
            Self::Q8_0 => WeightScheme::Q8_0,
            Self::Q4KM => WeightScheme::Q4KM,
            Self::Int8 => WeightScheme::Int8,
            Self::Fp8 => WeightScheme::Fp8,
            Self::Gptq => WeightScheme::Gptq,
            Self::Awq => WeightScheme::Awq,
            Self::Nf4 => WeightScheme::Nf4,
        }
    }
}
