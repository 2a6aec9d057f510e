//! Tests of the forms that a trace may have, and of the errors for invalid traces.

use nanofaas_core::time::Nanos;

use super::*;

fn parse(text: &str) -> Result<Vec<TraceCall>, TraceError> {
    read(
        text.as_bytes(),
        Some(VaryingTime::exactly(Nanos::from_ms(5))),
    )
}

#[track_caller]
fn refused(text: &str) -> (u64, String) {
    let error = parse(text).expect_err(text);
    (error.line.expect("a line to blame"), error.message)
}

#[test]
fn columns_come_in_any_order_and_are_optional() {
    let calls =
        parse("class, timeout_ms ,at_ms\n,100,1.5\nasync,,0\n\nsync,,2\n").expect("a trace");
    let call = |at_us, timeout_ms, class| TraceCall {
        at: Nanos::from_us(at_us),
        service: Nanos::from_ms(5),
        timeout_ms,
        class,
    };
    let expected = [
        call(0, None, Class::Async),
        call(1_500, Some(100), Class::Sync),
        call(2_000, None, Class::Sync),
    ];
    assert_eq!(calls, expected);
    let own = parse("\u{feff}at_ms,service_ms\n0,7\n1,\"8\"\n").expect("a trace");
    assert_eq!(
        [own[0].service, own[1].service],
        [Nanos::from_ms(7), Nanos::from_ms(8)]
    );
}

#[test]
fn simultaneous_calls_keep_their_lines_order() {
    let calls = parse("at_ms,service_ms\n5,1\n0,2\n5,3\n").expect("a trace");
    let services: Vec<u64> = calls.iter().map(|call| call.service.as_ms()).collect();
    assert_eq!(services, [2, 1, 3]);
}

#[test]
fn timestamps_count_from_the_first_one() {
    let text = "at_ms\n2026-01-31T12:00:01.250Z\n2026-01-31T13:00:00+01:00\n";
    let times: Vec<u64> = parse(text)
        .expect("a trace")
        .iter()
        .map(|call| call.at.as_ms())
        .collect();
    assert_eq!(times, [0, 1_250]);
    let (line, message) = refused("at_ms\n2026-01-31T12:00:01Z\n5\n");
    assert_eq!(line, 3);
    assert!(
        message.contains("a number in one line and a time in another"),
        "{message}"
    );
    let error = parse("at_ms\n2026-01-01T00:00:00Z\n2026-03-01T00:00:00Z\n").expect_err("long");
    assert_eq!(
        error.to_string(),
        "a trace is at most 31 days long: split it"
    );
}

#[test]
fn an_unreadable_line_is_named_with_the_expectation() {
    for (text, line, hint) in [
        ("", 1, "no column at_ms"),
        ("at_ms\n", 2, "no call"),
        ("time\n1\n", 1, "\"time\" is no column"),
        ("service_ms\n1\n", 1, "no column at_ms"),
        ("at_ms,at_ms\n1,1\n", 1, "twice"),
        ("at_ms\n0\n-1\n", 3, "from 0 to"),
        ("at_ms\n0\n\nx\n", 4, "2026-01-31T12:00:00.250Z"),
        ("at_ms\r\n0\r\n\r\nx", 4, "is \"x\""),
        ("at_ms\nNaN\n", 2, "a number of milliseconds"),
        ("at_ms\n1e300\n", 2, "from 0 to"),
        ("at_ms,class\n1\n", 2, "has 1 fields, and the header has 2"),
        ("at_ms,class\n1,batch\n", 2, "sync or async"),
        ("at_ms,timeout_ms\n1,0\n", 2, "from 1 to 300000"),
        ("at_ms,timeout_ms\n1,2.5\n", 2, "whole number"),
        (
            "at_ms,timeout_ms,class\n1,5,async\n",
            2,
            "timeout_ms is of sync calls",
        ),
        ("at_ms,service_ms\n1,-5\n", 2, "service_ms must be a number"),
    ] {
        let (found, message) = refused(text);
        assert!(
            found == line && message.contains(hint),
            "{text:?}: {found}: {message}"
        );
    }
    let error = read("at_ms\n1\n".as_bytes(), None).expect_err("no service time");
    assert_eq!(
        error.to_string(),
        "line 2: says nothing of service_ms: give --service-ms"
    );
    let error = read(&b"at_ms\n\xff\n"[..], None).expect_err("no text");
    assert_eq!(error.to_string(), "line 2: is not UTF-8");
}

#[test]
fn a_trace_is_bounded() {
    let mut text = "at_ms\n".to_owned();
    text += &"1\n".repeat(CALLS_MAX + 1);
    let (line, message) = refused(&text);
    assert_eq!(line as usize, CALLS_MAX + 2);
    assert!(message.contains("at most 1000000 calls"), "{message}");
    text.truncate(text.len() - 2);
    assert_eq!(
        parse(&text).expect("as many as there may be").len(),
        CALLS_MAX
    );
}

/// A trace that is too long is no fault of one line, so the error names no line. A line that is too long is
/// refused before it is kept in memory.
#[test]
fn a_traces_and_lines_bytes_are_bounded() {
    let text = "at_ms,service_ms\n100,5\n200,5\n";
    let within = |bytes_max| read_within(bytes_max, text.as_bytes(), None);
    assert_eq!(within(text.len() as u64).expect("all of it").len(), 2);
    for bytes_max in 0..text.len() as u64 {
        let error = within(bytes_max).expect_err("too long");
        let expected = format!("a trace has at most {bytes_max} bytes: split it");
        assert_eq!(error.to_string(), expected);
    }
    let endless = "at_ms\n1\n".as_bytes().chain(io::repeat(0));
    let service = Some(VaryingTime::exactly(Nanos::from_ns(5)));
    let error = read(endless, service).expect_err("an endless line");
    assert_eq!(error.to_string(), "line 3: a line has at most 65536 bytes");
    let quote = "at_ms\n\"1\n".as_bytes().chain(io::repeat(b'\n'));
    let error = read_within(1 << 20, quote, service).expect_err("an endless field");
    assert!(error.line.is_none(), "{error}");
}

#[test]
fn what_is_said_of_long_text_is_short() {
    let long = "é".repeat(10_000);
    for text in [
        format!("{long}\n1\n"),
        format!("at_ms\n{long}\n"),
        format!("at_ms,service_ms\n1,{long}\n"),
        format!("at_ms,timeout_ms\n1,{long}\n"),
        format!("at_ms,class\n1,{long}\n"),
        format!("at_ms\n1\n2026-01-31T12:00:00.{long}\n"),
    ] {
        let (_, message) = refused(&text);
        assert!(message.chars().count() < 250, "{message}");
        assert!(
            message.contains(&format!("{}…", "é".repeat(50))),
            "{message}"
        );
    }
    // This quote has no end.
    let text = format!("at_ms\n\"{}", "1\n".repeat(100_000));
    assert!(refused(&text).1.len() < 400);
}

#[test]
fn service_times_spread_as_told_and_repeat() {
    let about = VaryingTime {
        time: Nanos::from_ns(100),
        spread_percent: 10,
    };
    let text = format!("at_ms\n{}", "1\n".repeat(1000));
    let draw = || read(text.as_bytes(), Some(about)).expect("a trace");
    let calls = draw();
    assert!(
        calls
            .iter()
            .all(|call| (90..=110).contains(&call.service.as_ns()))
    );
    assert!(calls.iter().any(|call| call.service.as_ns() < 95));
    assert_eq!(calls, draw());
}
