//! Recorded outputs of each family, cut at every place.

use serde_json::json;

use super::*;

fn tools() -> Vec<ToolSpec> {
    let parameters = json!({"type": "object", "properties": {
        "city": {"type": "string"}, "days": {"type": "integer"}, "zip": {"type": "string"},
        "options": {"type": "object"},
    }});
    let tool = |name: &str| ToolSpec {
        name: name.to_owned(),
        parameters: parameters.clone(),
    };
    vec![tool("get_weather"), tool("get_time")]
}

fn spec(tools_format: Option<ToolFormat>, reasoning: Option<ReasoningFormat>) -> OutputSpec {
    OutputSpec {
        reasoning,
        tools: tools_format.map(|format| ToolsSpec {
            format,
            tools: tools(),
            calls_max: usize::MAX,
        }),
    }
}

fn parse(spec: &OutputSpec, tail: &str, deltas: &[&str]) -> Vec<OutputPiece> {
    let mut parser = OutputParser::new(spec, tail);
    let mut pieces = Vec::new();
    let mut all: Vec<OutputPiece> = deltas.iter().flat_map(|text| parser.feed(text)).collect();
    all.extend(parser.finish());
    for piece in all {
        match piece {
            OutputPiece::Text(text) => say(&mut pieces, OutputPiece::Text, &text),
            OutputPiece::Reasoning(text) => say(&mut pieces, OutputPiece::Reasoning, &text),
            call @ OutputPiece::Call(_) => pieces.push(call),
        }
    }
    pieces
}

/// The pieces of a text, which must not depend on how it is cut.
fn pieces(spec: &OutputSpec, tail: &str, text: &str) -> Vec<OutputPiece> {
    let whole = parse(spec, tail, &[text]);
    let characters: Vec<&str> = text.split("").filter(|each| !each.is_empty()).collect();
    assert_eq!(parse(spec, tail, &characters), whole, "{text}");
    for (cut, _) in text.char_indices() {
        let (first, second) = text.split_at(cut);
        assert_eq!(
            parse(spec, tail, &[first, second]),
            whole,
            "{text} at {cut}"
        );
    }
    whole
}

fn told(format: ToolFormat, output: &str) -> Vec<OutputPiece> {
    pieces(&spec(Some(format), None), "", output)
}

fn text(text: &str) -> OutputPiece {
    OutputPiece::Text(text.to_owned())
}

fn reasoning(text: &str) -> OutputPiece {
    OutputPiece::Reasoning(text.to_owned())
}

fn call(name: &str, arguments: &str) -> OutputPiece {
    OutputPiece::Call(ToolCall {
        id: None,
        name: name.to_owned(),
        arguments: arguments.to_owned(),
    })
}

fn call_with_id(id: &str, name: &str, arguments: &str) -> OutputPiece {
    OutputPiece::Call(ToolCall {
        id: Some(id.to_owned()),
        name: name.to_owned(),
        arguments: arguments.to_owned(),
    })
}

#[test]
fn hermes_calls_stand_between_tags() {
    let output = "Let me look.\n<tool_call>\n{\"name\": \"get_weather\", \"arguments\": {\"city\": \
        \"Z\\u00fcrich </tool_call> {\", \"days\": 2}}\n</tool_call>\n<tool_call>\n{\"name\": \"get_time\", \
        \"arguments\": {}}\n</tool_call>";
    let first = "{\"city\": \"Z\\u00fcrich </tool_call> {\", \"days\": 2}";
    assert_eq!(
        told(ToolFormat::Hermes, output),
        [
            text("Let me look."),
            call("get_weather", first),
            call("get_time", "{}")
        ]
    );
    // The last tag is often left out, and arguments are sometimes quoted or missing.
    for (output, arguments) in [
        (
            "<tool_call>{\"name\": \"f\", \"arguments\": {\"a\": 1}}",
            "{\"a\": 1}",
        ),
        (
            "<tool_call>{\"arguments\": \"{\\\"a\\\": 1}\", \"name\": \"f\"}",
            "{\"a\": 1}",
        ),
        ("<tool_call>{\"name\": \"f\"}</tool_call>  \n", "{}"),
    ] {
        assert_eq!(
            told(ToolFormat::Hermes, output),
            [call("f", arguments)],
            "{output}"
        );
    }
}

#[test]
fn llama_calls_are_the_whole_answer() {
    let one = "{\"name\": \"get_weather\", \"parameters\": {\"city\": \"Bern\"}}";
    let bern = call("get_weather", "{\"city\": \"Bern\"}");
    assert_eq!(told(ToolFormat::Llama3, one), std::slice::from_ref(&bern));
    let marked = format!("<|python_tag|>{one}; {one}");
    assert_eq!(told(ToolFormat::Llama3, &marked), [bern.clone(), bern]);
    // JSON in the middle of a sentence, of an unknown tool, or that is no call at all.
    for output in [
        format!("I would call {one}"),
        one.replace("get_weather", "somebody"),
        "{\"a\": [1, 2]} is an object; {".to_owned(),
        "<|python_tag|>print(1)".to_owned(),
    ] {
        assert_eq!(told(ToolFormat::Llama3, &output), [text(&output)]);
    }
}

#[test]
fn mistral_calls_are_a_list_or_follow_their_name() {
    let list = "[TOOL_CALLS][{\"name\": \"get_weather\", \"arguments\": {\"city\": \"[\"}, \"id\": \"abcdef123\"}, \
        {\"name\": \"get_time\", \"arguments\": {}}]";
    assert_eq!(
        told(ToolFormat::Mistral, list),
        [
            call_with_id("abcdef123", "get_weather", "{\"city\": \"[\"}"),
            call("get_time", "{}")
        ]
    );
    let named = "Yes.[TOOL_CALLS]get_weather[CALL_ID]abcdef123[ARGS]{\"city\": \"Bern\"}\
        [TOOL_CALLS]get_time{}";
    assert_eq!(
        told(ToolFormat::Mistral, named),
        [
            text("Yes."),
            call_with_id("abcdef123", "get_weather", "{\"city\": \"Bern\"}"),
            call("get_time", "{}")
        ]
    );
}

#[test]
fn deepseek_calls_are_fenced_in_a_section() {
    let output = "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>get_weather\n```json\n\
        {\"city\": \"Bern\"}\n```<｜tool▁call▁end｜>\n<｜tool▁call▁begin｜>function<｜tool▁sep｜>get_time\n\
        ```json\n{}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>";
    let calls = [
        call("get_weather", "{\"city\": \"Bern\"}"),
        call("get_time", "{}"),
    ];
    assert_eq!(told(ToolFormat::DeepSeek, output), calls);
    let newer = "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>get_weather<｜tool▁sep｜>{\"city\": \"Bern\"}\
        <｜tool▁call▁end｜><｜tool▁call▁begin｜>get_time<｜tool▁sep｜>{}<｜tool▁call▁end｜><｜tool▁calls▁end｜>";
    assert_eq!(told(ToolFormat::DeepSeek, newer), calls);
}

#[test]
fn glm_and_qwen_coder_write_bare_values() {
    let arguments = "{\"city\":\"3\",\"days\":2,\"options\":{\"a\":[1]},\"note\":\"x < y\"}";
    let glm = "<tool_call>get_weather\n<arg_key>city</arg_key>\n<arg_value>3</arg_value>\n\
        <arg_key>days</arg_key><arg_value>2</arg_value><arg_key>options</arg_key>\
        <arg_value>{\"a\": [1]}</arg_value><arg_key>note</arg_key><arg_value>x < y</arg_value></tool_call>";
    assert_eq!(told(ToolFormat::Glm, glm), [call("get_weather", arguments)]);
    let bare = "<tool_call>get_time</tool_call><tool_call>get_time\n</tool_call>";
    let time = call("get_time", "{}");
    assert_eq!(told(ToolFormat::Glm, bare), [time.clone(), time]);
    let qwen = "<tool_call>\n<function=get_weather>\n<parameter=city>\n3\n</parameter>\n<parameter=days>\n2\n\
        </parameter>\n<parameter=options>\n{\"a\": [1]}\n</parameter>\n<parameter=note>\nx < y\n</parameter>\n\
        </function>\n</tool_call>";
    assert_eq!(
        told(ToolFormat::QwenCoder, qwen),
        [call("get_weather", arguments)]
    );
}

#[test]
fn kimi_calls_keep_the_ids_of_the_model() {
    let output = "Sure. <|tool_calls_section_begin|><|tool_call_begin|>functions.get_weather:0\
        <|tool_call_argument_begin|>{\"city\": \"Bern\"}<|tool_call_end|><|tool_call_begin|>functions.get_time:1\
        <|tool_call_argument_begin|>{}<|tool_call_end|><|tool_calls_section_end|>";
    assert_eq!(
        told(ToolFormat::Kimi, output),
        [
            text("Sure."),
            call_with_id(
                "functions.get_weather:0",
                "get_weather",
                "{\"city\": \"Bern\"}"
            ),
            call_with_id("functions.get_time:1", "get_time", "{}")
        ]
    );
}

#[test]
fn json_calls_may_be_fenced_or_listed() {
    let one = "{\"name\": \"get_time\", \"arguments\": {\"zip\": \"8000\"}}";
    let time = call("get_time", "{\"zip\": \"8000\"}");
    for (output, count) in [
        (one.to_owned(), 1),
        (format!("```json\n{one}\n```"), 1),
        (format!("\n[{one}, {one}]\n"), 2),
    ] {
        assert_eq!(
            told(ToolFormat::Json, &output),
            vec![time.clone(); count],
            "{output}"
        );
    }
}

#[test]
fn what_is_not_a_whole_call_is_the_text_it_was() {
    let whole = "<tool_call>{\"name\": \"f\", \"arguments\": {}}</tool_call>";
    for (format, output) in [
        (ToolFormat::Hermes, "The <tool_call> tag begins a call. "),
        (
            ToolFormat::Hermes,
            " \n<tool_call>{\"name\": \"f\", \"arguments\": {\"a\"",
        ),
        (
            ToolFormat::Hermes,
            "<tool_call>{\"name\": \"f\", \"arguments\": {'a': 1}}</tool_call>",
        ),
        (
            ToolFormat::Hermes,
            "<tool_call>{\"name\": \"f\", \"arguments\": [1]}</tool_call>",
        ),
        (
            ToolFormat::Hermes,
            "<tool_call>{\"name\": \"\", \"arguments\": {}}</tool_call>",
        ),
        (
            ToolFormat::Hermes,
            "<tool_call>{\"arguments\": {}}</tool_call>",
        ),
        (
            ToolFormat::Hermes,
            "<tool_call>{\"name\": \"f\", \"arguments\": {\"a\": \"\\ud800\"}",
        ),
        (ToolFormat::Hermes, "</tool_call> <tool_cal"),
        (
            ToolFormat::Glm,
            "<tool_call>get_weather<arg_key>city</arg_key><arg_value>Be",
        ),
        (
            ToolFormat::Glm,
            "<tool_call>get_weather<arg_key>city</arg_key></tool_call>",
        ),
        (ToolFormat::Glm, "<tool_call>two words</tool_call>"),
        (
            ToolFormat::QwenCoder,
            "<tool_call><function=f><parameter=a>1</tool_call>",
        ),
        (ToolFormat::Mistral, "[TOOL_CALLS] and nothing"),
        (
            ToolFormat::Mistral,
            "[TOOL_CALLS][{\"name\": \"f\", \"arguments\": {}}, {}]",
        ),
        (
            ToolFormat::DeepSeek,
            "<｜tool▁calls▁begin｜> ``` <｜tool▁calls▁end｜>",
        ),
        (ToolFormat::Kimi, "<|tool_calls_section_begin|>"),
        (ToolFormat::Json, "```json\n{\"a\": 1}\n```"),
        (ToolFormat::Json, "[1, 2, 3]"),
    ] {
        assert_eq!(told(format, output), [text(output)], "{format}");
    }
    let (open, garbage) = ("<tool_call>", "<tool_call> garbage ");
    let output = format!("{open}{garbage}{whole}");
    assert_eq!(
        told(ToolFormat::Hermes, &output),
        [text("<tool_call><tool_call> garbage"), call("f", "{}")]
    );
}

#[test]
fn text_without_calls_is_untouched_to_the_last_space() {
    for output in ["", " ", "\n a <b> \u{1f600}; {} ```\n\n", "a; b"] {
        for format in ToolFormat::ALL {
            let expected: Vec<OutputPiece> = (!output.is_empty())
                .then(|| text(output))
                .into_iter()
                .collect();
            assert_eq!(told(format, output), expected, "{format} {output:?}");
        }
    }
}

#[test]
fn text_behind_a_call_is_text() {
    let output = "<tool_call>{\"name\": \"f\"}</tool_call> </tool_call>\nDone: </tool_call> x \n";
    let expected = [call("f", "{}"), text(" \nDone: </tool_call> x")];
    assert_eq!(told(ToolFormat::Hermes, output), expected);
}

#[test]
fn calls_beyond_the_bound_are_dropped() {
    let mut spec = spec(Some(ToolFormat::Hermes), None);
    spec.tools.as_mut().unwrap().calls_max = 1;
    let one = "<tool_call>{\"name\": \"f\"}</tool_call>";
    assert_eq!(
        pieces(&spec, "", &format!("{one}{one}{one}")),
        [call("f", "{}")]
    );
}

#[test]
fn half_a_megabyte_of_marks_takes_linear_time() {
    for format in ToolFormat::ALL {
        let count = if format == ToolFormat::Hermes {
            52_000
        } else {
            4_000
        };
        let marks = format.marks();
        for mark in marks.opens.iter().chain(marks.sections).chain(marks.closes) {
            let output = mark.repeat(count);
            let spec = spec(Some(format), None);
            assert_eq!(
                parse(&spec, "", &[&output]),
                [text(&output)],
                "{format} {mark}"
            );
        }
        let brackets = "[{\"".repeat(count);
        let spec = spec(Some(format), None);
        assert_eq!(
            parse(&spec, "", &[&brackets]),
            [text(&brackets)],
            "{format}"
        );
    }
}

#[test]
fn reasoning_ends_at_its_mark() {
    let spec = spec(Some(ToolFormat::Hermes), Some(ReasoningFormat::Think));
    let answer = "\n a <tool_call>{\"name\": \"f\"}</tool_call>";
    let told = [
        reasoning("Hm.\n\nYes </thin, <tool_call>{}"),
        text("a"),
        call("f", "{}"),
    ];
    let thought = format!("\n Hm.\n\nYes </thin, <tool_call>{{}} \n</think>{answer}");
    assert_eq!(pieces(&spec, "", &format!(" <think>{thought}")), told);
    // The first mark in the prompt, in the output, or in both.
    assert_eq!(pieces(&spec, "<|assistant|><think>\n", &thought), told);
    assert_eq!(pieces(&spec, "<think>", &format!("<think>{thought}")), told);
}

#[test]
fn without_marks_only_some_models_think() {
    let of = |format| spec(None, Some(format));
    let think = of(ReasoningFormat::Think);
    for output in ["<thin", " \n plain </think> text ", "<b>", ""] {
        let expected: Vec<OutputPiece> = (!output.is_empty())
            .then(|| text(output))
            .into_iter()
            .collect();
        assert_eq!(
            pieces(&think, "assistant: <think> </think>\n\n", output),
            expected
        );
    }
    let first = of(ReasoningFormat::ThinkFirst);
    assert_eq!(
        pieces(&first, "", "so </think>\nyes\n"),
        [reasoning("so"), text("yes\n")]
    );
    assert_eq!(
        pieces(&first, "<think>\n\n</think>\n\n", "yes"),
        [text("yes")]
    );
    assert_eq!(
        pieces(&first, "", "<thought </thi"),
        [reasoning("<thought </thi")]
    );
    assert_eq!(pieces(&first, "", "<th"), [reasoning("<th")]);
    let mistral = of(ReasoningFormat::Mistral);
    assert_eq!(
        pieces(&mistral, "", "[THINK]a[/THINK]b"),
        [reasoning("a"), text("b")]
    );
}

#[test]
fn reasoning_is_measured_with_its_marks() {
    let spec = spec(None, Some(ReasoningFormat::Think));
    for (output, bytes) in [
        ("<think>abc</think>de", 18),
        ("<think>abc", 10),
        (" <thi", 0),
        ("abc", 0),
    ] {
        let mut parser = OutputParser::new(&spec, "");
        for character in output.split("") {
            parser.feed(character);
        }
        assert_eq!(parser.reasoning_bytes(), bytes, "{output}");
    }
}

#[test]
fn names_are_read_back() {
    for format in ToolFormat::ALL {
        assert_eq!(format.name().parse(), Ok(format));
    }
    for format in ReasoningFormat::ALL {
        assert_eq!(format.name().parse(), Ok(format));
    }
    let error = "pythonic".parse::<ToolFormat>().unwrap_err().to_string();
    assert!(
        error.contains("pythonic") && error.contains("hermes, llama3_json"),
        "{error}"
    );
}

#[test]
fn marks_are_those_of_both_parts() {
    let spec = spec(Some(ToolFormat::Kimi), Some(ReasoningFormat::Think));
    let marks: Vec<&str> = spec.marks().collect();
    for mark in [
        "<think>",
        "</think>",
        "<|tool_call_argument_begin|>",
        "<|tool_call_end|>",
    ] {
        assert!(marks.contains(&mark), "{mark}");
    }
    assert_eq!(OutputSpec::default().marks().count(), 0);
}
