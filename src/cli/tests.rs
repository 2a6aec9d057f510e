//! Tests of the command line without a server: what it accepts, what it refuses, and its exit
//! codes.

use clap::Parser;

use super::*;

#[derive(Debug, Parser)]
struct ClientLine {
    #[command(subcommand)]
    command: ClientCommand,
}

fn parse(line: &str) -> Result<ClientCommand, clap::Error> {
    ClientLine::try_parse_from(line.split_whitespace()).map(|line| line.command)
}

#[test]
fn the_command_line_is_sound() {
    use clap::CommandFactory;
    ClientLine::command().debug_assert();
}

#[test]
fn takes_every_command() {
    for line in [
        "x apply -f a -f - --no-build",
        "x list -o json",
        "x get f --server http://h:1",
        "x delete a b",
        "x invoke f",
        "x invoke f {} --timeout-ms 1 --header a:b --header c:d --trace-id t --raw",
        "x invoke f -5",
        "x invoke f - --content-type text/plain --idempotency-key k",
        "x enqueue f @file --wait",
        "x status i --wait",
        "x cancel i",
        "x scale f 0",
        "x cold-starts f",
        "x simulate -f a -t b --service-ms 0.5 --start-ms never --spread 100 --plot c -o json",
    ] {
        assert!(parse(line).is_ok(), "{line}: {:?}", parse(line).err());
    }
}

#[test]
fn refuses_wrong_use() {
    for line in [
        "x",
        "x apply",
        "x get",
        "x delete",
        "x invoke",
        "x invoke f {} --timeout-ms 0",
        "x invoke f {} --timeout-ms 300001",
        "x invoke f {} --header a",
        "x scale f",
        "x scale f -1",
        "x list -o yaml",
        "x simulate -f a",
        "x simulate -f a -t b --service-ms -1",
        "x simulate -f a -t b --start-ms soon",
        "x simulate -f a -t b --spread 101",
    ] {
        assert!(parse(line).is_err(), "{line}");
    }
    assert!(ClientLine::try_parse_from(["x", "get", ""]).is_err());
}

fn exit_of(line: &str) -> String {
    format!("{:?}", run(&parse(line).expect(line)))
}

#[test]
fn nothing_listening_and_wrong_addresses_exit_with_two() {
    let expected = format!("{:?}", ExitCode::from(2));
    // The listener is dropped here, so no process listens on this port.
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .and_then(|socket| socket.local_addr())
        .expect("a free port")
        .port();
    assert_eq!(
        exit_of(&format!("x list --server 127.0.0.1:{port}")),
        expected
    );
    assert_eq!(exit_of("x list --server https://127.0.0.1:1"), expected);
    assert_eq!(
        exit_of(&format!("x invoke f hello --server 127.0.0.1:{port}")),
        expected
    );
    assert_eq!(exit_of("x apply -f /does/not/exist"), expected);
}
