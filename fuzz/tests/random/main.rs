//! Checks every reader of bytes from outside with random and damaged inputs.
//!
//! `NANOFAAS_FUZZ_INPUTS` sets the number of inputs for each property (default: 1,000,000 in a
//! release build, else 50,000). A failure prints `NANOFAAS_SEED=…` and the bytes; with this variable
//! the test repeats that input alone.

#![allow(
    clippy::disallowed_methods,
    reason = "tests act in place of clients, pods and clocks"
)]

mod cases;
mod function_file;
mod guard;
mod http;
mod json;

use cases::for_each_input;

#[test]
fn requests() {
    for_each_input("request", http::requests);
}

#[test]
fn responses() {
    for_each_input("response", http::answers);
}

#[test]
fn chunked_bodies() {
    for_each_input("chunked", http::chunked);
}

#[test]
fn values_of_headers_and_queries() {
    for_each_input("values", http::values);
}

#[test]
fn json_texts() {
    for_each_input("json", json::json);
}

#[test]
fn envelopes() {
    for_each_input("envelope", json::envelopes);
}

#[test]
fn texts() {
    for_each_input("text", json::texts);
}

#[test]
fn function_files() {
    for_each_input("function_file", function_file::function_files);
}

#[test]
fn messages_of_the_guard() {
    for_each_input("guard", guard::messages);
}
