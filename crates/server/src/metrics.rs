//! The engine's counters as Prometheus text, under the names vLLM's dashboards know.

use std::fmt::{self, Display, Write as _};

use kvist_engine::{Histogram, MetricsSnapshot, ModelInfo};

/// The media type of what [`render`] writes.
pub(crate) const MEDIA_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Everything, one family after the other.
pub(crate) fn render(model_name: &str, info: &ModelInfo, now: &MetricsSnapshot) -> String {
    let mut page = Page {
        text: String::with_capacity(16 << 10),
        model: escaped(model_name),
    };
    page.gauges(now);
    page.counters(now);
    page.requests(now);
    page.histogram(
        "vllm:time_to_first_token_seconds",
        "Time from acceptance to the first output token.",
        &now.ttft_seconds,
    );
    page.histogram(
        "vllm:inter_token_latency_seconds",
        "Time between output tokens of one request.",
        &now.itl_seconds,
    );
    page.histogram(
        "vllm:e2e_request_latency_seconds",
        "Time from acceptance to the end of a request.",
        &now.e2e_seconds,
    );
    page.memory(info, now);
    page.text
}

/// The text so far. `model` is escaped.
struct Page {
    text: String,
    model: String,
}

/// A `String` takes everything that is written to it.
const INFALLIBLE: &str = "writing to a String cannot fail";

impl Page {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}").expect(INFALLIBLE);
    }

    /// One sample; `labels` are further labels, each with a comma before it.
    fn sample(&mut self, name: &str, labels: fmt::Arguments<'_>, value: impl Display) {
        let model = &self.model;
        writeln!(
            self.text,
            "{name}{{model_name=\"{model}\"{labels}}} {value}"
        )
        .expect(INFALLIBLE);
    }

    fn single(&mut self, (name, kind): (&str, &str), help: &str, value: impl Display) {
        self.family(name, kind, help);
        self.sample(name, format_args!(""), value);
    }

    fn gauges(&mut self, now: &MetricsSnapshot) {
        let gauge = |name| (name, "gauge");
        self.single(
            gauge("vllm:num_requests_running"),
            "Sequences with KV blocks.",
            now.running,
        );
        self.single(
            gauge("vllm:num_requests_waiting"),
            "Sequences waiting for KV blocks or a place in the batch.",
            now.waiting,
        );
        let held = f64::from(now.blocks_held);
        let share = if now.blocks_total == 0 {
            0.0
        } else {
            held / f64::from(now.blocks_total)
        };
        self.single(
            gauge("vllm:kv_cache_usage_perc"),
            "Share of KV blocks held, 0 to 1.",
            share,
        );
    }

    fn counters(&mut self, now: &MetricsSnapshot) {
        let counters = [
            (
                "vllm:prompt_tokens_total",
                "Prompt tokens of accepted requests.",
                now.prompt_tokens,
            ),
            (
                "vllm:generation_tokens_total",
                "Output tokens produced.",
                now.output_tokens,
            ),
            (
                "vllm:num_preemptions_total",
                "Sequences preempted.",
                now.preemptions,
            ),
            (
                "vllm:prefix_cache_queries_total",
                "Prompt tokens looked up in the prefix cache.",
                now.prefix_query_tokens,
            ),
            (
                "vllm:prefix_cache_hits_total",
                "Prompt tokens found in the prefix cache.",
                now.prefix_hit_tokens,
            ),
            (
                "kvist_requests_accepted_total",
                "Requests accepted.",
                now.accepted,
            ),
            (
                "kvist_computed_tokens_total",
                "Tokens run through the model.",
                now.computed_tokens,
            ),
            ("kvist_steps_total", "Steps run.", now.steps),
        ];
        for (name, help, value) in counters {
            self.single((name, "counter"), help, value);
        }
    }

    fn requests(&mut self, now: &MetricsSnapshot) {
        let name = "vllm:request_success_total";
        self.family(name, "counter", "Ended requests by how they ended.");
        let ends = &now.finished;
        for (reason, count) in [
            ("stop", ends.stop),
            ("length", ends.length),
            ("abort", ends.cancelled),
            ("error", ends.failed),
        ] {
            self.sample(name, format_args!(",finished_reason=\"{reason}\""), count);
        }
    }

    fn histogram(&mut self, name: &str, help: &str, histogram: &Histogram) {
        self.family(name, "histogram", help);
        let bucket = format!("{name}_bucket");
        let mut cumulative = 0;
        for (bound, count) in histogram.bounds.iter().zip(&histogram.counts) {
            cumulative += count;
            self.sample(&bucket, format_args!(",le=\"{bound:?}\""), cumulative);
        }
        self.sample(&bucket, format_args!(",le=\"+Inf\""), histogram.count());
        self.sample(&format!("{name}_sum"), format_args!(""), histogram.sum);
        self.sample(
            &format!("{name}_count"),
            format_args!(""),
            histogram.count(),
        );
    }

    fn memory(&mut self, info: &ModelInfo, now: &MetricsSnapshot) {
        let name = "kvist_kv_blocks";
        self.family(
            name,
            "gauge",
            "KV blocks by state; every block is in exactly one.",
        );
        for (state, count) in [
            ("free", now.blocks_free),
            ("held", now.blocks_held),
            ("cached", now.blocks_cached),
        ] {
            self.sample(name, format_args!(",state=\"{state}\""), count);
        }
        let name = "kvist_memory_bytes";
        self.family(name, "gauge", "Bytes by line of the memory plan.");
        for line in &info.plan.lines {
            let label = escaped(&line.name);
            let labels = format_args!(",line=\"{label}\",state=\"planned\"");
            self.sample(name, labels, line.bytes.0);
        }
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
        let mut page = Page {
            text: String::new(),
            model: "m".to_owned(),
        };
        let histogram = Histogram {
            bounds: &[0.5, 1.0],
            counts: vec![2, 0, 1],
            sum: 4.5,
        };
        page.histogram("h", "Help.", &histogram);
        let expected = "\
# HELP h Help.
# TYPE h histogram
h_bucket{model_name=\"m\",le=\"0.5\"} 2
h_bucket{model_name=\"m\",le=\"1.0\"} 2
h_bucket{model_name=\"m\",le=\"+Inf\"} 3
h_sum{model_name=\"m\"} 4.5
h_count{model_name=\"m\"} 3
";
        assert_eq!(page.text, expected);
    }
}
