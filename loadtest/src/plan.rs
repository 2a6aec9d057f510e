//! Formats the requests of a run before the run starts, and chooses the next request at random. This module
//! opens no socket and reads no clock. The client sends the requests.

use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};
use rand_distr::{Distribution as _, Zipf};

use crate::address::ParsedUrl;
use crate::body::RequestBody;
use crate::load::{LoadSpec, RequestTarget};

/// One planned request. The type is small, because millions of requests may wait in the client.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct PlannedRequest {
    pub(crate) target: u32,
    pub(crate) function: u32,
    pub(crate) duration_ms: f32,
}

/// A target's request in pieces; the fixed pieces are already formatted.
#[derive(Debug)]
struct Template {
    /// The bytes before the function's name, or the whole fixed head if it contains no name.
    before: Vec<u8>,
    /// The bytes after the function's name, to the end of the fixed head; `None` if the head contains no
    /// name.
    after: Option<Vec<u8>>,
    body: RequestBody,
}

#[derive(Debug)]
pub(crate) struct RequestPlan {
    pub(crate) urls: Vec<ParsedUrl>,
    templates: Vec<Template>,
    names: Vec<String>,
    pub(crate) bodiless: Vec<bool>,
    draw: Draw,
}

#[derive(Debug)]
struct Draw {
    dice: SmallRng,
    /// The cumulative weights of the targets; the last one is 1, up to rounding.
    weights: Vec<f64>,
    zipf: Option<Zipf<f64>>,
}

const FUNCTION: &str = "{function}";

impl RequestPlan {
    /// Formats the requests. `names` are the function names of a trace; if there are none, the load's
    /// template makes the names.
    pub(crate) fn new(
        load: &LoadSpec,
        names: Vec<String>,
        allow_remote: bool,
    ) -> Result<Self, String> {
        let names = match &load.functions {
            Some(functions) if names.is_empty() => (0..functions.count)
                .map(|number| functions.name.replace("{}", &number.to_string()))
                .collect(),
            _ => names,
        };
        let mut urls = Vec::new();
        let mut templates = Vec::new();
        let mut bodiless = Vec::new();
        for target in &load.targets {
            let parsed = ParsedUrl::parse(&target.url, allow_remote)?;
            if parsed.path.contains(FUNCTION) && names.is_empty() {
                return Err(format!(
                    "{}: {FUNCTION} needs names: --functions-zipf N, or a trace",
                    target.url
                ));
            }
            templates.push(Template::new(target, &parsed)?);
            bodiless.push(target.method == "HEAD");
            urls.push(parsed);
        }
        if let Some(name) = names
            .iter()
            .find(|name| !name.bytes().all(|b| b.is_ascii_graphic()))
        {
            return Err(format!(
                "{name:?} cannot stand in a URL; use letters and digits"
            ));
        }
        let zipf = match &load.functions {
            Some(functions) => Some(
                Zipf::new(f64::from(functions.count), functions.exponent)
                    .map_err(|error| format!("the Zipf distribution: {error}"))?,
            ),
            None => None,
        };
        let total: f64 = load.targets.iter().map(|target| target.weight).sum();
        let mut sum = 0.0;
        let weights = load.targets.iter().map(|target| {
            sum += target.weight / total;
            sum
        });
        let draw = Draw {
            dice: SmallRng::seed_from_u64(load.seed),
            weights: weights.collect(),
            zipf,
        };
        Ok(Self {
            urls,
            templates,
            names,
            bodiless,
            draw,
        })
    }

    pub(crate) fn draw(&mut self) -> PlannedRequest {
        self.draw.call()
    }

    /// Draws a target for a row of a trace, because a row names no target.
    pub(crate) fn draw_target(&mut self) -> u32 {
        self.draw.target()
    }

    /// Appends the whole request to `out`.
    pub(crate) fn write(&self, call: PlannedRequest, out: &mut Vec<u8>) {
        let template = &self.templates[call.target as usize];
        out.extend_from_slice(&template.before);
        if let Some(after) = &template.after {
            out.extend_from_slice(self.names[call.function as usize].as_bytes());
            out.extend_from_slice(after);
        }
        match &template.body {
            RequestBody::Fixed(body) => out.extend_from_slice(body),
            RequestBody::Timed(before, after) => {
                let duration = format!("{:.3}", call.duration_ms);
                let length = before.len() + duration.len() + after.len();
                let text = format!("content-length: {length}\r\n\r\n{before}{duration}{after}");
                out.extend_from_slice(text.as_bytes());
            }
        }
    }
}

impl Draw {
    fn call(&mut self) -> PlannedRequest {
        let function = match &self.zipf {
            // The distribution draws numbers from 1, but names are numbered from 0.
            Some(zipf) => zipf.sample(&mut self.dice) as u32 - 1,
            None => 0,
        };
        PlannedRequest {
            target: self.target(),
            function,
            duration_ms: 0.0,
        }
    }

    fn target(&mut self) -> u32 {
        if self.weights.len() == 1 {
            return 0;
        }
        let point: f64 = self.dice.random();
        let last = self.weights.len() - 1;
        // Because of rounding, the last sum may be slightly below 1.
        self.weights.partition_point(|sum| *sum <= point).min(last) as u32
    }
}

impl Template {
    fn new(target: &RequestTarget, parsed: &ParsedUrl) -> Result<Self, String> {
        let body = RequestBody::of(target)?;
        let mut head = format!("{} {} HTTP/1.1\r\n", target.method, parsed.path);
        let has = |wanted: &str| {
            target
                .headers
                .iter()
                .any(|(name, _)| name.eq_ignore_ascii_case(wanted))
        };
        if !has("host") {
            head.push_str(&format!("host: {}\r\n", parsed.host));
        }
        for (name, value) in &target.headers {
            if !name
                .bytes()
                .all(|byte| byte.is_ascii_graphic() && byte != b':')
                || name.is_empty()
                || value.contains(['\r', '\n'])
            {
                return Err(format!(
                    "header {name:?}: write it as 'name: value' on one line"
                ));
            }
            if name.eq_ignore_ascii_case("content-length")
                || name.eq_ignore_ascii_case("transfer-encoding")
            {
                return Err(format!(
                    "header {name}: the tool writes it itself; leave it out"
                ));
            }
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        match &body {
            Some(RequestBody::Timed(..)) => {}
            Some(RequestBody::Fixed(body)) => {
                if !has("content-type") {
                    head.push_str("content-type: application/json\r\n");
                }
                head.push_str(&format!("content-length: {}\r\n\r\n", body.len()));
            }
            None if matches!(target.method.as_str(), "GET" | "HEAD" | "DELETE") => {
                head.push_str("\r\n");
            }
            None => head.push_str("content-length: 0\r\n\r\n"),
        }
        if matches!(body, Some(RequestBody::Timed(..))) && !has("content-type") {
            head.push_str("content-type: application/json\r\n");
        }
        let (before, after) = match head.split_once(FUNCTION) {
            Some((before, after)) => (before, Some(after.as_bytes().to_vec())),
            None => (head.as_str(), None),
        };
        Ok(Self {
            before: before.as_bytes().to_vec(),
            after,
            body: body.unwrap_or(RequestBody::Fixed(Vec::new())),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::DrawnFunctions;

    fn load(target: RequestTarget) -> LoadSpec {
        LoadSpec {
            targets: vec![target],
            ..LoadSpec::default()
        }
    }

    fn text(load: &LoadSpec, call: PlannedRequest) -> String {
        let plan = RequestPlan::new(load, Vec::new(), false).expect("a plan");
        let mut out = Vec::new();
        plan.write(call, &mut out);
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn a_request_is_formatted_whole() {
        let mut load = load(RequestTarget {
            url: "http://127.0.0.1:9/v1/functions/{function}:invoke".to_owned(),
            body_bytes: Some(14),
            ..RequestTarget::default()
        });
        load.functions = Some(DrawnFunctions {
            count: 20,
            exponent: 1.0,
            name: "fn-{}".to_owned(),
        });
        let call = PlannedRequest {
            target: 0,
            function: 12,
            duration_ms: 0.0,
        };
        assert_eq!(
            text(&load, call),
            "POST /v1/functions/fn-12:invoke HTTP/1.1\r\nhost: 127.0.0.1:9\r\n\
             content-type: application/json\r\ncontent-length: 14\r\n\r\n{\"input\":\"xx\"}"
        );
    }

    #[test]
    fn a_duration_stands_in_the_body() {
        let load = load(RequestTarget {
            url: "http://127.0.0.1:9/".to_owned(),
            body: Some("{\"ms\":{duration_ms}}".to_owned()),
            ..RequestTarget::default()
        });
        let whole = text(
            &load,
            PlannedRequest {
                target: 0,
                function: 0,
                duration_ms: 2.5,
            },
        );
        assert!(
            whole.ends_with("content-length: 12\r\n\r\n{\"ms\":2.500}"),
            "{whole}"
        );
    }

    #[test]
    fn draws_follow_weights_and_zipf() {
        let url = "http://127.0.0.1:9/{function}".to_owned();
        let mut load = load(RequestTarget {
            url: url.clone(),
            ..RequestTarget::default()
        });
        load.targets.push(RequestTarget {
            url,
            weight: 3.0,
            ..RequestTarget::default()
        });
        load.functions = Some(DrawnFunctions {
            count: 1000,
            exponent: 1.0,
            name: "{}".to_owned(),
        });
        let mut plan = RequestPlan::new(&load, Vec::new(), false).expect("a plan");
        let calls: Vec<PlannedRequest> = (0..20_000).map(|_| plan.draw()).collect();
        let second = calls.iter().filter(|call| call.target == 1).count();
        assert!((14_500..15_500).contains(&second), "{second}");
        // By Zipf's law the first name gets 1 / H(1000) = 13.4 % of the calls, and the second name
        // half as many.
        let count = |function| {
            calls
                .iter()
                .filter(|call| call.function == function)
                .count()
        };
        assert!((2_400..2_950).contains(&count(0)), "{}", count(0));
        assert!((1_150..1_530).contains(&count(1)), "{}", count(1));
        assert!(calls.iter().all(|call| call.function < 1000));
    }

    #[test]
    fn impossible_requests_are_refused() {
        let url = "http://127.0.0.1:9/".to_owned();
        for target in [
            RequestTarget {
                url: format!("{url}{FUNCTION}"),
                ..RequestTarget::default()
            },
            RequestTarget {
                url: url.clone(),
                body_bytes: Some(5),
                ..RequestTarget::default()
            },
            RequestTarget {
                url: url.clone(),
                headers: vec![("Content-Length".to_owned(), "1".to_owned())],
                ..RequestTarget::default()
            },
            RequestTarget {
                url,
                body: Some(String::new()),
                body_bytes: Some(50),
                ..RequestTarget::default()
            },
        ] {
            assert!(
                RequestPlan::new(&load(target.clone()), Vec::new(), false).is_err(),
                "{target:?}"
            );
        }
    }
}
