//! The ratios of a race as a picture for the README.

use std::fmt::Write as _;

use super::outcome::{ModelRace, Race, TestRace};

const WIDTH: f64 = 760.0;
/// Where bars begin.
const LEFT: f64 = 220.0;
/// Room for a ratio behind the longest bar.
const RIGHT: f64 = 60.0;
const BAR: f64 = 16.0;
const STEP: f64 = 22.0;
/// Room above a model's bars for its name.
const HEADING: f64 = 30.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = 30.0;

/// Text and lines take the reader's theme; the background is the page's.
const STYLE: &str = "\
text { font: 13px system-ui, sans-serif; fill: #1f2328; }
.title, .model { font-weight: 600; }
.note { fill: #59636e; font-size: 12px; }
.bar { fill: #2f81b7; }
.axis { stroke: #59636e; }
.target { stroke: #bc4c00; stroke-width: 2; }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3; }
  .note { fill: #9198a1; }
  .bar { fill: #4aa3df; }
  .axis { stroke: #9198a1; }
  .target { stroke: #f0883e; }
}
";

/// Bars for each model and test, a line where both engines are equal, a mark at each ratio aimed for.
pub fn svg(race: &Race) -> String {
    let tests = || race.models.iter().flat_map(|model| &model.tests);
    let longest = tests().map(|test| test.ratio().max(test.target));
    let longest = longest
        .filter(|ratio| ratio.is_finite())
        .fold(1.0, f64::max);
    let scale = (WIDTH - LEFT - RIGHT) / longest;
    #[allow(clippy::cast_precision_loss)] // a few bars
    let bars = tests().count() as f64 * STEP + race.models.len() as f64 * HEADING;
    let height = TOP + bars + BOTTOM;

    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" role=\"img\">\n"
    );
    let title = format!("Speed of kvist, {} = 1", race.peer);
    push(&mut svg, format_args!("<title>{}</title>", escape(&title)));
    push(&mut svg, format_args!("<style>\n{STYLE}</style>"));
    text(&mut svg, "title", (0.0, 18.0), &title);
    let mut y = TOP;
    for model in &race.models {
        y = group(&mut svg, model, (y, scale));
    }
    let equal = LEFT + scale;
    push(
        &mut svg,
        format_args!(
            "<line class=\"axis\" x1=\"{equal:.1}\" y1=\"{TOP}\" x2=\"{equal:.1}\" y2=\"{y:.1}\"/>"
        ),
    );
    let note =
        "Tokens a second over the other's at its best; medians. Upright marks: what was aimed for.";
    text(&mut svg, "note", (0.0, y + 20.0), note);
    svg + "</svg>\n"
}

/// A model's name and bars; returns where the next one begins.
fn group(svg: &mut String, model: &ModelRace, (mut y, scale): (f64, f64)) -> f64 {
    text(svg, "model", (0.0, y + 18.0), &model.model);
    y += HEADING;
    for test in model.tests.iter().filter(|test| test.ratio().is_finite()) {
        bar(svg, test, (y, scale));
        y += STEP;
    }
    y
}

fn bar(svg: &mut String, test: &TestRace, (y, scale): (f64, f64)) {
    let (ratio, middle) = (test.ratio(), y + BAR * 0.8);
    text(svg, "", (12.0, middle), &test.test);
    push(
        svg,
        format_args!(
            "<rect class=\"bar\" x=\"{LEFT}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"{BAR}\" rx=\"2\"/>",
            ratio * scale
        ),
    );
    let target = LEFT + test.target * scale;
    let (above, below) = (y - 2.0, y + BAR + 2.0);
    push(
        svg,
        format_args!(
            "<line class=\"target\" x1=\"{target:.1}\" y1=\"{above:.1}\" x2=\"{target:.1}\" y2=\"{below:.1}\"/>"
        ),
    );
    let behind = LEFT + ratio.max(test.target) * scale + 8.0;
    text(svg, "", (behind, middle), &format!("{ratio:.2}×"));
}

fn text(svg: &mut String, class: &str, (x, y): (f64, f64), content: &str) {
    let content = escape(content);
    push(
        svg,
        format_args!("<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\">{content}</text>"),
    );
}

fn push(svg: &mut String, element: std::fmt::Arguments<'_>) {
    writeln!(svg, "{element}").expect("writing to a string does not fail");
}

/// Text that is no markup.
fn escape(text: &str) -> String {
    let text = text.replace('&', "&amp;").replace('<', "&lt;");
    text.replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::race::outcome::Side;

    fn race(model: &str) -> Race {
        let side = |rate: f64| Side {
            runs: vec![rate],
            stolen: 0,
        };
        let test = |name: &str, ours: f64, target| TestRace {
            test: name.to_owned(),
            kvist: side(ours),
            peer: side(10.0),
            peer_variant: String::new(),
            target,
            gb_per_second: None,
            gops: None,
        };
        Race {
            setup: Vec::new(),
            peer: "llama.cpp".to_owned(),
            models: vec![ModelRace {
                model: model.to_owned(),
                threads: 2,
                isa: "avx2".to_owned(),
                read_gb_per_second: 20.0,
                gops: 400.0,
                tests: vec![test("prefill 512", 48.0, 2.0), test("decode", 15.0, 4.8)],
            }],
        }
    }

    /// Whether every element is closed in its order, and every `&` and `<` is markup.
    fn is_well_formed(xml: &str) -> bool {
        let mut open = Vec::new();
        let mut rest = xml;
        while let Some((text, tail)) = rest.split_once('<') {
            let Some((tag, tail)) = tail.split_once('>') else {
                return false;
            };
            let entities = ["&amp;", "&lt;", "&gt;", "&quot;"];
            let bare = entities
                .iter()
                .fold(text.to_owned(), |text, e| text.replace(e, ""));
            if bare.contains(['&', '>']) || tag.matches('"').count() % 2 == 1 {
                return false;
            }
            let name = tag.trim_start_matches('/').split_whitespace().next();
            if tag.starts_with('/') {
                if open.pop() != Some(name) {
                    return false;
                }
            } else if !tag.ends_with('/') {
                open.push(name);
            }
            rest = tail;
        }
        open.is_empty() && rest.trim().is_empty()
    }

    #[test]
    fn the_picture_is_well_formed_whatever_a_model_is_called() {
        let svg = svg(&race("a <b> & \"c\""));
        assert!(is_well_formed(&svg), "{svg}");
        assert!(svg.contains("a &lt;b&gt; &amp; &quot;c&quot;</text>"));
        assert!(!is_well_formed("<svg><g></svg>") && !is_well_formed("<svg>&</svg>"));
    }

    #[test]
    fn bars_are_as_long_as_their_ratios() {
        let svg = svg(&race("m"));
        // The longest is 4.8 and takes the whole width; the other is 1.5.
        let full = WIDTH - LEFT - RIGHT;
        assert!(svg.contains(&format!("width=\"{full:.1}\"")), "{svg}");
        assert!(
            svg.contains(&format!("width=\"{:.1}\"", full / 4.8 * 1.5)),
            "{svg}"
        );
        assert!(svg.contains("4.80×") && svg.contains("1.50×"));
    }

    #[test]
    fn a_test_that_was_not_run_has_no_bar() {
        let mut race = race("m");
        race.models[0].tests[0].peer.runs.clear();
        let svg = svg(&race);
        assert_eq!(svg.matches("<rect").count(), 1);
        assert!(!svg.contains("NaN"), "{svg}");
    }
}
