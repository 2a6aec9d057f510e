//! Runs registrars, clients and a killer on a plane in one form, and then checks the plane. All accepted
//! executions must end, the ledger's drift must be 0, and no descriptors or processes may be left. `main`
//! calls this module for each form.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nanofaas_testkit::client::{RawClient, Request};
use nanofaas_testkit::folder::ScratchFolder;
use nanofaas_testkit::rng::SeededRng;
use nanofaas_testkit::wait::PATIENCE;

use crate::book::Book;
use crate::clients::{self, ChaosClient};
use crate::ledger::Ledger;
use crate::plan::{Changes, FUNCTIONS, Steps};
use crate::pods::{Peers, Reports};
use crate::registrar::Registrar;
use crate::subject::{ControlPlaneForm, Subject};
use crate::tally::Tally;

const CLIENTS: usize = 10;
const REGISTRARS: usize = 2;
/// The number of the clients' first stream of random numbers. The registrars' streams begin at 0.
const CLIENT_STREAM: u64 = 100;
const KILLER_STREAM: u64 = 99;
const END_STREAM: u64 = 98;

struct Run {
    subject: Subject,
    book: Arc<Book>,
    ledger: Arc<Ledger>,
    tally: Arc<Tally>,
    over: AtomicBool,
}

/// Runs the plan of a seed in one form for `length`. Returns false if anything was wrong.
pub(crate) fn run(form: ControlPlaneForm, seed: u64, length: Duration, total: &Tally) -> bool {
    println!("-- {}", form.name);
    let (book, ledger) = (Arc::new(Book::new()), Arc::default());
    let tally = Arc::default();
    let folder = ScratchFolder::create();
    let more = [
        ["--backend", "local"],
        ["--rate-max-per-second", "off"],
        ["--async-max-age-ms", "10000"],
        ["--start-timeout-ms", "5000"],
        ["--execution-store-bytes", "1GiB"],
        ["--log-level", "info"],
    ];
    let run = Run {
        subject: Subject::start(form, more.as_flattened(), &tally),
        book,
        ledger,
        tally,
        over: AtomicBool::new(false),
    };
    let peers = Peers::new(&run.ledger, &run.book, &run.tally);
    let mut reports = Reports::new(folder.path().join("receipts"));
    let registrar = Registrar {
        plane: &run.subject.plane,
        book: &run.book,
        ledger: &run.ledger,
        tally: &run.tally,
        peers: &peers,
        receipts: folder.path().join("receipts"),
    };
    run.act(&registrar, seed, length, &mut reports);
    if run.subject.is_alive() {
        let remove_first = SeededRng::new(seed, END_STREAM).chance(50);
        run.end(&registrar, &mut reports, remove_first);
    }
    run.stop(&reports);
    run.tally.print_wrongs(form.name);
    total.add(&run.tally);
    let sound = run.tally.wrongs() == 0;
    if !sound {
        run.subject.print_log();
        println!("chaos: FAILED in {}, NANOFAAS_CHAOS_SEED={seed}", form.name);
    }
    sound
}

impl Run {
    /// Runs registrars, clients and the killer, until the time is over or the plane has died.
    fn act(&self, registrar: &Registrar<'_>, seed: u64, length: Duration, reports: &mut Reports) {
        std::thread::scope(|scope| {
            let (mut registrars, mut clients) = (Vec::new(), Vec::new());
            for number in 0..REGISTRARS {
                let own = (0..FUNCTIONS).filter(|function| function % REGISTRARS == number);
                let changes = Changes::new(SeededRng::new(seed, number as u64), own.collect());
                registrars.push(scope.spawn(move || registrar.work(changes, &self.over)));
            }
            for number in 0..CLIENTS {
                let steps = Steps::new(SeededRng::new(seed, CLIENT_STREAM + number as u64));
                let listen = self.subject.plane.listen;
                let (book, ledger, tally) = (&self.book, &self.ledger, &self.tally);
                clients.push(scope.spawn(move || {
                    ChaosClient::new(number, listen, book, ledger, tally).work(steps, &self.over)
                }));
            }
            let end = Instant::now() + length;
            let mut rng = SeededRng::new(seed, KILLER_STREAM);
            while Instant::now() < end && self.subject.is_alive() {
                std::thread::sleep(Duration::from_millis(40));
                reports.read(&self.ledger, &self.book, &self.tally);
                self.kill(&mut rng, reports);
            }
            self.over.store(true, Ordering::Relaxed);
            let mut unanswered = Vec::new();
            for registrar in registrars {
                unanswered.extend(registrar.join().err().map(words));
            }
            for client in clients {
                match client.join() {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => unanswered.push(format!("no answer: {error}")),
                    Err(panic) => unanswered.push(words(panic)),
                }
            }
            // A missing answer is a fault only while the plane lives. `stop` reports the death of a plane.
            if self.subject.is_alive() {
                unanswered
                    .into_iter()
                    .for_each(|what| self.tally.wrong(what));
            }
        });
        reports.read(&self.ledger, &self.book, &self.tally);
    }

    /// Kills one of the six youngest living processes, with a probability of 20 %.
    fn kill(&self, rng: &mut SeededRng, reports: &Reports) {
        let (hit, back) = (rng.chance(20), rng.below(6) as usize);
        let youngest = reports
            .started
            .iter()
            .rev()
            .filter(|process| process.is_alive());
        if hit
            && youngest
                .take(back + 1)
                .last()
                .is_some_and(|process| process.kill())
        {
            self.tally.count("kill");
        }
    }

    /// Runs after the last client: waits until all executions have ended, removes the functions, and checks
    /// that nothing is left. With `remove_first`, the functions are removed before the wait.
    fn end(&self, registrar: &Registrar<'_>, reports: &mut Reports, remove_first: bool) {
        if remove_first {
            registrar.remove_all();
        }
        self.all_end();
        self.subject.balance();
        if !remove_first {
            registrar.remove_all();
        }
        self.subject.eventually("only the guard is left", || {
            let left = self.subject.children();
            if left.len() <= 1 {
                Ok(())
            } else {
                Err(left.join("; "))
            }
        });
        reports.read(&self.ledger, &self.book, &self.tally);
        self.ledger.check_concurrency(&self.book, &self.tally);
        registrar.peers.hang_up();
        self.subject.check_descriptors();
    }

    fn all_end(&self) {
        let mut wire = RawClient::connect(self.subject.plane.listen);
        let end = Instant::now() + PATIENCE;
        for id in self.ledger.all() {
            // All executions share one deadline, so each request may wait for only half of the time that is
            // left.
            let wait_ms = end.saturating_duration_since(Instant::now()).as_millis() / 2;
            let asked = self.book.now();
            wire.send(&Request::get(&format!("/v1/executions/{id}?waitMs={wait_ms}")).bytes());
            let answer = match wire.read(true) {
                Ok(answer) => answer,
                Err(error) => return self.tally.wrong(format!("status of {id}: {error}")),
            };
            if answer.status == 404 && self.ledger.sent(&id).is_none() {
                continue; // Later records have overwritten the record of this plain call.
            }
            if answer.status != 200 {
                self.tally.wrong(format!(
                    "status of {id}: {} {}",
                    answer.status,
                    answer.text()
                ));
                continue;
            }
            let status = answer.json();
            match clients::status(&self.book, &self.ledger, &self.tally, &id, asked, &status) {
                Ok(true) => {}
                Ok(false) => self
                    .tally
                    .wrong(format!("an execution does not end: {status}")),
                Err(why) => self.tally.wrong(why),
            }
        }
    }

    /// Ends the plane, and checks that all processes of functions end with it.
    fn stop(&self, reports: &Reports) {
        self.subject.stop();
        let end = Instant::now() + PATIENCE;
        let alive = || {
            reports
                .started
                .iter()
                .filter(|process| process.is_alive())
                .count()
        };
        while alive() > 0 && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(50));
        }
        if alive() > 0 {
            self.tally
                .wrong(format!("{} processes of functions are left", alive()));
        }
    }
}

fn words(panic: Box<dyn Any + Send>) -> String {
    panic
        .downcast::<String>()
        .map_or_else(|_| "an assertion failed".to_owned(), |text| *text)
}
