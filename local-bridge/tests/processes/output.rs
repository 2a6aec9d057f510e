//! Tests that the output of functions goes to the log.

use std::io::{self, Write};
use std::sync::{Arc, Mutex};

use tracing_subscriber::fmt::MakeWriter;

use crate::ProcessTest;
use crate::fixture::{until, with};

pub(crate) const TESTS: &[ProcessTest] = &[("output_reaches_the_log_within_limits", logged)];

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("no panic").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

impl Log {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().expect("no panic")).into_owned()
    }
}

fn logged() {
    let log = Log::default();
    let subscriber = tracing_subscriber::fmt()
        .with_writer(log.clone())
        .with_ansi(false);
    let _guard = tracing::subscriber::set_default(subscriber.finish());
    with(|mut fixture| async move {
        let script = "#!/bin/sh\necho to stdout\necho to stderr >&2\n\
                      head -c 20000 /dev/zero | tr '\\0' x\necho\n\
                      seq -f 'line %g' 1 5000 >&2\ntouch wrote\nprintf last\n";
        fixture.scratch.executable("pod", script);
        let function = fixture.warm(r#"["./pod"]"#, "").await;
        fixture.pod(&function);
        fixture.event().await;
        assert!(
            fixture.has_file("wrote"),
            "a flood must not hold the function up"
        );
        until("all is logged", || log.text().contains(": last ")).await;
        let text = log.text();
        let line = |part: &str| {
            let found = text.lines().find(|line| line.contains(part));
            found
                .unwrap_or_else(|| panic!("{part} is not logged"))
                .to_owned()
        };
        for part in ["to stdout", "to stderr"] {
            let line = line(part);
            assert!(
                line.contains("function=f1") && line.contains("pod=fn-f1-"),
                "{line}"
            );
        }
        assert!(line("cut here").len() < 9000);
        let shown = text.lines().filter(|line| line.contains(": line ")).count();
        assert!((900..2500).contains(&shown), "{shown} of 5000 lines");
        line("lines were left out");
        fixture
    });
}
