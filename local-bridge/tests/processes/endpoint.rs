//! POOL endpoints, and many functions at once.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use nanofaas_core::message::{Message, PodAddress, Reply, Request};

use crate::Test;
use crate::bench::{Bench, IO_THREADS, until, with};

pub(crate) const TESTS: &[Test] = &[
    ("endpoints_are_told_to_all_threads", told),
    ("ten_thousand_functions_are_registered", many),
];

async fn address(bench: &mut Bench, lane: u32) -> Result<PodAddress, Arc<str>> {
    let mut found = None;
    for thread in 0..IO_THREADS {
        let Message::Endpoint { lane: of, address } = bench.message(thread).await else {
            panic!("no address");
        };
        assert_eq!(of, lane);
        found = Some(address);
    }
    found.expect("an address")
}

fn told() {
    with(|mut bench| async move {
        let tcp = |text: &str| PodAddress::Tcp(text.parse::<SocketAddr>().expect("an address"));
        for (url, expected) in [
            ("http://127.0.0.1:81/a", tcp("127.0.0.1:81")),
            ("http://[::1]:82", tcp("[::1]:82")),
            (
                "http+unix:///a/b.sock:/c",
                PodAddress::Unix(PathBuf::from("/a/b.sock")),
            ),
        ] {
            let fields = format!(r#""executionMode":"POOL","endpointUrl":"{url}""#);
            let lane = register(&mut bench, &fields).await;
            assert_eq!(address(&mut bench, lane).await, Ok(expected));
        }
        let named = r#""executionMode":"POOL","endpointUrl":"http://localhost:83""#;
        let mut seen = Vec::new();
        for _ in 0..2 {
            // The second is answered from what is known of the host.
            let lane = register(&mut bench, named).await;
            let Ok(PodAddress::Tcp(found)) = address(&mut bench, lane).await else {
                panic!("not resolved");
            };
            assert!(found.ip().is_loopback() && found.port() == 83);
            seen.push(found);
        }
        assert_eq!(seen[0], seen[1]);
        bench
    });
}

/// Registers without waiting for the reply, which an address may come before.
async fn register(bench: &mut Bench, fields: &str) -> u32 {
    let count = bench.desk.borrow().functions().len();
    let json = format!(r#"{{"name":"p{count}",{fields}}}"#);
    let draft = Box::new(serde_json::from_str(&json).expect("a draft"));
    let done = bench.desk.borrow_mut().register(draft, false);
    assert_eq!(done, Ok(()));
    // A bell that nobody rings: any message makes the bridge look.
    let request = Request::ColdStarts {
        name: "nobody".into(),
    };
    let reply = bench.ask(request).await;
    assert!(matches!(reply, Reply::Refused(_)));
    let name = format!("p{count}");
    bench.desk.borrow().functions()[&*name].lane
}

fn many() {
    const COUNT: usize = 10_000;
    with(|mut bench| async move {
        for number in 0..COUNT {
            let fields = if number % 2 == 0 {
                r#""executionMode":"LOCAL""#.to_owned()
            } else {
                let port = 1 + number % 60_000;
                format!(r#""executionMode":"POOL","endpointUrl":"http://127.0.0.1:{port}""#)
            };
            let json = format!(r#"{{"name":"m{number}",{fields}}}"#);
            let draft = Box::new(serde_json::from_str(&json).expect("a draft"));
            assert_eq!(bench.desk.borrow_mut().register(draft, false), Ok(()));
        }
        bench.desk.borrow_mut().tell(0, Message::Drain);
        let request = Request::ColdStarts {
            name: "nobody".into(),
        };
        let reply = nanofaas_core::message::ReplyTo {
            thread: 0,
            token: 1,
        };
        bench.send(nanofaas_core::message::BridgeMessage::Request { request, reply });
        let all = (COUNT * IO_THREADS) as u64;
        until("all threads have all functions", || {
            bench.acknowledged() == all
        })
        .await;
        let desk = bench.desk.clone();
        until("all is settled", || {
            while bench.try_message(0).is_some() || bench.try_message(1).is_some() {}
            desk.borrow().is_settled()
        })
        .await;
        assert_eq!(desk.borrow().functions().len(), COUNT);
        let mut opened = 0;
        while bench.scheduler.events.pop().is_some() {
            opened += 1;
        }
        assert_eq!(opened, COUNT);
        bench
    });
}
