mod files;
fn main() {}
