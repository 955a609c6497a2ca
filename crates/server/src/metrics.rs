//! The engine's counters as Prometheus text, under the names vLLM's dashboards know.

use std::fmt::{self, Display, Write as _};

use kvist_engine::{EngineHandle, FleetLine, FleetMemory, Histogram, MetricsSnapshot};

/// The media type of what [`render`] writes.
pub(crate) const MEDIA_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The numbers of one model, of one moment.
struct Sampled {
    engine: EngineHandle,
    /// The name answers carry, escaped.
    name: String,
    now: MetricsSnapshot,
}

/// Everything, one family after the other, in each a sample for every model.
pub(crate) fn render(models: Vec<(&str, EngineHandle)>, memory: &FleetMemory) -> String {
    let sampled = |(name, engine): (&str, EngineHandle)| Sampled {
        name: escaped(name),
        now: engine.metrics(),
        engine,
    };
    let mut page = Page {
        text: String::with_capacity(16 << 10),
        models: models.into_iter().map(sampled).collect(),
    };
    page.gauges();
    page.counters();
    page.requests();
    page.infos();
    for (name, help, of) in HISTOGRAMS {
        page.histogram(name, help, of);
    }
    page.blocks();
    page.process(memory);
    page.text
}

/// The text so far, and what it is about.
struct Page {
    text: String,
    models: Vec<Sampled>,
}

/// A family's name, its help, and where its values are.
type Counter = (&'static str, &'static str, fn(&MetricsSnapshot) -> u64);

const COUNTERS: [Counter; 18] = [
    (
        "vllm:prompt_tokens_total",
        "Prompt tokens of accepted requests.",
        |now| now.prompt_tokens,
    ),
    (
        "vllm:generation_tokens_total",
        "Output tokens produced.",
        |now| now.output_tokens,
    ),
    (
        "kvist_weights_streamed_bytes_total",
        "Bytes of weights that steps read from the model file.",
        |now| now.weights_streamed_bytes,
    ),
    (
        "vllm:num_preemptions_total",
        "Sequences preempted.",
        |now| now.preemptions,
    ),
    (
        "vllm:prefix_cache_queries_total",
        "Prompt tokens looked up in the prefix cache.",
        |now| now.prefix_query_tokens,
    ),
    (
        "vllm:prefix_cache_hits_total",
        "Prompt tokens found in the prefix cache.",
        |now| now.prefix_hit_tokens,
    ),
    (
        "vllm:spec_decode_num_draft_tokens_total",
        "Draft tokens computed.",
        |now| now.drafted_tokens,
    ),
    (
        "vllm:spec_decode_num_accepted_tokens_total",
        "Draft tokens that were drawn too.",
        |now| now.accepted_draft_tokens,
    ),
    (
        "vllm:prompt_tokens_cached_total",
        "Prompt tokens found in the prefix cache.",
        |now| now.prefix_hit_tokens,
    ),
    (
        "vllm:corrupted_requests_total",
        "Requests ended by logits that were not numbers.",
        |now| now.corrupted,
    ),
    (
        "kvist_kv_blocks_spilled_total",
        "KV blocks written to the second tier.",
        |now| now.spilled_blocks,
    ),
    (
        "kvist_kv_blocks_restored_total",
        "KV blocks read back from it.",
        |now| now.restored_blocks,
    ),
    (
        "kvist_draft_model_tokens_total",
        "Draft tokens computed that the draft model guessed.",
        |now| now.draft_model_tokens,
    ),
    (
        "kvist_draft_model_accepted_tokens_total",
        "Of these, tokens that were drawn too.",
        |now| now.accepted_draft_model_tokens,
    ),
    (
        "kvist_draft_model_rows_total",
        "Rows the draft model computed.",
        |now| now.draft_model_rows,
    ),
    (
        "kvist_requests_accepted_total",
        "Requests accepted.",
        |now| now.accepted,
    ),
    (
        "kvist_computed_tokens_total",
        "Tokens run through the model.",
        |now| now.computed_tokens,
    ),
    ("kvist_steps_total", "Steps run.", |now| now.steps),
];

/// A family's name, its help, and where its values are.
type HistogramFamily = (
    &'static str,
    &'static str,
    fn(&MetricsSnapshot) -> &Histogram,
);

const HISTOGRAMS: [HistogramFamily; 14] = [
    (
        "vllm:time_to_first_token_seconds",
        "Time from acceptance to the first output token.",
        |now| &now.ttft_seconds,
    ),
    (
        "vllm:inter_token_latency_seconds",
        "Time between output tokens of one request.",
        |now| &now.itl_seconds,
    ),
    (
        "vllm:request_time_per_output_token_seconds",
        "Time for each output token after the first, the mean of a request.",
        |now| &now.requests.tpot_seconds,
    ),
    (
        "vllm:e2e_request_latency_seconds",
        "Time from acceptance to the end of a request.",
        |now| &now.e2e_seconds,
    ),
    (
        "vllm:request_queue_time_seconds",
        "Time from acceptance to the first step of a request.",
        |now| &now.requests.queue_seconds,
    ),
    (
        "vllm:request_prefill_time_seconds",
        "Time from the first step of a request to its first output token.",
        |now| &now.requests.prefill_seconds,
    ),
    (
        "vllm:request_decode_time_seconds",
        "Time from the first output token of a request to its last.",
        |now| &now.requests.decode_seconds,
    ),
    (
        "vllm:request_inference_time_seconds",
        "Time from the first step of a request to its last output token.",
        |now| &now.requests.inference_seconds,
    ),
    (
        "vllm:request_prompt_tokens",
        "Tokens of a request's prompt.",
        |now| &now.requests.prompt_tokens,
    ),
    (
        "vllm:request_prefill_kv_computed_tokens",
        "Tokens of a request's prompt that were not found in the prefix cache.",
        |now| &now.requests.computed_prompt_tokens,
    ),
    (
        "vllm:request_generation_tokens",
        "Tokens of a request's output.",
        |now| &now.requests.output_tokens,
    ),
    (
        "vllm:request_params_max_tokens",
        "Most output tokens of a request, asked for or as many as there was room for.",
        |now| &now.requests.output_max,
    ),
    (
        "vllm:request_params_n",
        "Alternatives asked for, once a prompt.",
        |now| &now.requests.alternatives,
    ),
    (
        "vllm:iteration_tokens_total",
        "Tokens computed in a step.",
        |now| &now.step_tokens,
    ),
];

/// A `String` takes everything that is written to it.
const INFALLIBLE: &str = "writing to a String cannot fail";

/// One sample of a model; `labels` are further labels, each with a comma before it.
fn sample(
    text: &mut String,
    (name, model): (&str, &str),
    labels: fmt::Arguments<'_>,
    value: impl Display,
) {
    writeln!(
        text,
        "{name}{{model_name=\"{model}\",engine=\"0\"{labels}}} {value}"
    )
    .expect(INFALLIBLE);
}

impl Page {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}").expect(INFALLIBLE);
    }

    /// A family of one sample a model.
    fn single<T: Display>(
        &mut self,
        (name, kind): (&str, &str),
        help: &str,
        value: impl Fn(&MetricsSnapshot) -> T,
    ) {
        self.family(name, kind, help);
        for model in &self.models {
            let value = value(&model.now);
            sample(&mut self.text, (name, &model.name), format_args!(""), value);
        }
    }

    fn gauges(&mut self) {
        let gauge = |name| (name, "gauge");
        self.single(
            gauge("vllm:num_requests_running"),
            "Sequences with KV blocks.",
            |now| now.running,
        );
        self.single(
            gauge("vllm:num_requests_waiting"),
            "Sequences waiting for KV blocks or a place in the batch.",
            |now| now.waiting,
        );
        self.single(
            gauge("vllm:kv_cache_usage_perc"),
            "Share of KV blocks held, 0 to 1.",
            |now| match now.blocks_total {
                0 => 0.0,
                total => f64::from(now.blocks_held) / f64::from(total),
            },
        );
        self.labelled(
            ("vllm:num_requests_waiting_by_reason", "gauge", "reason"),
            "Waiting sequences by what they wait for.",
            |now| vec![("capacity", now.waiting as u64), ("deferred", 0)],
        );
        self.labelled(
            ("vllm:engine_sleep_state", "gauge", "sleep_state"),
            "Whether the engine is awake; it always is.",
            |_| vec![("awake", 1), ("weights_offloaded", 0), ("discard_all", 0)],
        );
    }

    /// A family of several samples a model, told apart by one more label.
    fn labelled(
        &mut self,
        (name, kind, label): (&str, &str, &str),
        help: &str,
        values: impl Fn(&MetricsSnapshot) -> Vec<(&'static str, u64)>,
    ) {
        self.family(name, kind, help);
        for model in &self.models {
            for (value, count) in values(&model.now) {
                let labels = format_args!(",{label}=\"{value}\"");
                sample(&mut self.text, (name, &model.name), labels, count);
            }
        }
    }

    /// What the KV pool is like, as labels.
    fn infos(&mut self) {
        let name = "vllm:cache_config_info";
        self.family(name, "gauge", "The KV cache's configuration.");
        for Sampled {
            engine,
            name: model,
            now,
        } in &self.models
        {
            let info = engine.info();
            let block_size = info.plan.kv.block_size.0;
            let tokens = u64::from(now.blocks_total) * u64::from(block_size);
            #[allow(clippy::cast_precision_loss)] // two decimals are told
            let concurrency = tokens as f64 / f64::from(info.model_len.0.max(1));
            let labels = format_args!(
                ",block_size=\"{block_size}\",num_gpu_blocks=\"{}\",kv_cache_size_tokens=\"{tokens}\"\
                 ,kv_cache_max_concurrency=\"{concurrency:.2}\"",
                now.blocks_total
            );
            sample(&mut self.text, (name, model), labels, 1);
        }
    }

    fn counters(&mut self) {
        for (name, help, value) in COUNTERS {
            self.single((name, "counter"), help, value);
        }
        self.single(
            ("kvist_draft_model_seconds_total", "counter"),
            "Seconds the draft model took.",
            |now| now.draft_model_seconds,
        );
    }

    fn requests(&mut self) {
        self.labelled(
            ("vllm:request_success_total", "counter", "finished_reason"),
            "Ended requests by how they ended.",
            |now| {
                let ends = &now.finished;
                vec![
                    ("stop", ends.stop),
                    ("length", ends.length),
                    ("abort", ends.cancelled),
                    ("error", ends.failed),
                ]
            },
        );
        self.labelled(
            ("vllm:admission_rejections_total", "counter", "reason"),
            "Requests refused at the door.",
            |now| vec![("queue_full", now.rejected)],
        );
        self.labelled(
            ("vllm:prompt_tokens_by_source_total", "counter", "source"),
            "Prompt tokens of ended requests by where their keys and values came from.",
            |now| {
                vec![
                    (
                        "local_compute",
                        whole(now.requests.computed_prompt_tokens.sum),
                    ),
                    ("local_cache_hit", now.requests.cached_prompt_tokens),
                    ("external_kv_transfer", 0),
                ]
            },
        );
    }

    fn histogram(&mut self, name: &str, help: &str, of: fn(&MetricsSnapshot) -> &Histogram) {
        self.family(name, "histogram", help);
        for model in &self.models {
            write_histogram(&mut self.text, (name, &model.name), of(&model.now));
        }
    }

    fn blocks(&mut self) {
        let name = "kvist_kv_blocks";
        self.family(
            name,
            "gauge",
            "KV blocks by state; every block is in exactly one.",
        );
        for model in &self.models {
            let now = &model.now;
            for (state, count) in [
                ("free", now.blocks_free),
                ("held", now.blocks_held),
                ("cached", now.blocks_cached),
            ] {
                let labels = format_args!(",state=\"{state}\"");
                sample(&mut self.text, (name, &model.name), labels, count);
            }
        }
    }

    /// Where the process's memory is. A line that is for all models has an empty `model_name`.
    fn process(&mut self, memory: &FleetMemory) {
        let name = "kvist_memory_bytes";
        let help = "Bytes by line of the memory plan: allowed, given by the system, in use.";
        self.family(name, "gauge", help);
        for FleetLine { model, line } in &memory.lines {
            let model = escaped(model.as_deref().unwrap_or_default());
            let label = escaped(&line.name);
            for (state, bytes) in [
                ("planned", line.planned),
                ("committed", line.committed),
                ("used", line.used),
            ] {
                let labels = format_args!(",line=\"{label}\",state=\"{state}\"");
                sample(&mut self.text, (name, &model), labels, bytes.0);
            }
        }
        let budget = ("kvist_memory_budget_bytes", "Most the process may hold.");
        self.unlabelled(budget, memory.budget.0);
        if let Some(process) = memory.process {
            let resident = ("kvist_process_resident_bytes", "What the process holds.");
            self.unlabelled(resident, process.resident.0);
        }
    }

    /// A gauge of the whole process.
    fn unlabelled(&mut self, (name, help): (&str, &str), value: impl Display) {
        self.family(name, "gauge", help);
        writeln!(self.text, "{name} {value}").expect(INFALLIBLE);
    }
}

/// A sum of counts, which f64 holds exactly up to 2^53.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn whole(sum: f64) -> u64 {
    sum as u64
}

fn write_histogram(text: &mut String, (name, model): (&str, &str), histogram: &Histogram) {
    let bucket = format!("{name}_bucket");
    let mut cumulative = 0;
    for (bound, count) in histogram.bounds.iter().zip(&histogram.counts) {
        cumulative += count;
        let labels = format_args!(",le=\"{bound:?}\"");
        sample(text, (&bucket, model), labels, cumulative);
    }
    let count = histogram.count();
    sample(text, (&bucket, model), format_args!(",le=\"+Inf\""), count);
    for (suffix, value) in [
        ("sum", histogram.sum.to_string()),
        ("count", count.to_string()),
    ] {
        let name = format!("{name}_{suffix}");
        sample(text, (&name, model), format_args!(""), value);
    }
}

/// A label value, as the text format wants it.
fn escaped(value: &str) -> String {
    value
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn label_values_cannot_leave_their_quotes() {
        assert_eq!(escaped("a\"} 1\nb\\"), "a\\\"} 1\\nb\\\\");
    }

    #[test]
    fn buckets_are_cumulative_and_end_at_the_count() {
        let mut text = String::new();
        let histogram = Histogram {
            bounds: &[0.5, 1.0],
            counts: vec![2, 0, 1],
            sum: 4.5,
        };
        write_histogram(&mut text, ("h", "m"), &histogram);
        let expected = "\
h_bucket{model_name=\"m\",engine=\"0\",le=\"0.5\"} 2
h_bucket{model_name=\"m\",engine=\"0\",le=\"1.0\"} 2
h_bucket{model_name=\"m\",engine=\"0\",le=\"+Inf\"} 3
h_sum{model_name=\"m\",engine=\"0\"} 4.5
h_count{model_name=\"m\",engine=\"0\"} 3
";
        assert_eq!(text, expected);
    }
}
