//! Writes numbers in readable form: with a unit and usually three digits. Tables, plots and progress bars
//! show numbers in this form; JSON has plain numbers.

/// Formats a time, given in nanoseconds.
pub fn duration(ns: f64) -> String {
    let us = ns / 1e3;
    if us < 1_000.0 {
        format!("{} µs", digits(us))
    } else if us < 1_000_000.0 {
        format!("{} ms", digits(us / 1e3))
    } else {
        format!("{} s", digits(us / 1e6))
    }
}

/// Formats a count. All digits are shown, because 1234 shown as 1,230 would look like an estimate.
pub fn count(number: u64) -> String {
    let text = number.to_string();
    let mut shown = String::new();
    for (at, digit) in text.chars().enumerate() {
        if at > 0 && (text.len() - at).is_multiple_of(3) {
            shown.push(',');
        }
        shown.push(digit);
    }
    shown
}

/// Formats a rate, given as a number per second.
pub fn rate(per_s: f64) -> String {
    if per_s >= 100.0 {
        count(per_s.round() as u64)
    } else {
        digits(per_s)
    }
}

/// Formats a size in memory.
pub fn bytes(bytes: f64) -> String {
    if bytes < 1024.0 {
        format!("{} B", digits(bytes))
    } else if bytes < 1024.0 * 1024.0 {
        format!("{} KiB", digits(bytes / 1024.0))
    } else {
        format!("{} MiB", digits(bytes / 1024.0 / 1024.0))
    }
}

/// Formats a number with three digits, or with all digits before the point if these are more.
pub fn digits(number: f64) -> String {
    let size = number.abs();
    if size >= 100.0 || size == 0.0 {
        format!("{number:.0}")
    } else if size >= 10.0 {
        format!("{number:.1}")
    } else {
        format!("{number:.2}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_have_units_and_three_digits() {
        assert_eq!(duration(1_234.0), "1.23 µs");
        assert_eq!(duration(45_678_000.0), "45.7 ms");
        assert_eq!(duration(1_000_000_000.0), "1.00 s");
        assert_eq!(
            (count(999), count(1_234_567)),
            ("999".to_owned(), "1,234,567".to_owned())
        );
        assert_eq!(bytes(1536.0), "1.50 KiB");
    }
}
