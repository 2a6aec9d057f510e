//! Computes the picture, and encodes it as a PNG. The bounds of a request are checked in `view`.

use png::{BitDepth, ColorType, Encoder, EncodingError};

use crate::view::View;

/// The number of bytes of a pixel: red, green, blue.
const PIXEL: usize = 3;

/// Computes the pixels row by row. Returns `None` if `stop` returned true before the last row.
pub(crate) fn draw(view: &View, stop: impl Fn() -> bool) -> Option<Vec<u8>> {
    let mut pixels = Vec::with_capacity(view.width as usize * view.height as usize * PIXEL);
    for row in 0..view.height {
        if stop() {
            return None;
        }
        for column in 0..view.width {
            let (x, y) = view.point(column, row);
            pixels.extend_from_slice(&color(escape(x, y, view.max_iterations)));
        }
    }
    Some(pixels)
}

/// Returns the number of iterations until the point escapes, smoothed to a fraction; `None` if the point does
/// not escape within `iterations`.
fn escape(x: f64, y: f64, iterations: u32) -> Option<f64> {
    let (mut a, mut b) = (0.0_f64, 0.0_f64);
    for iteration in 0..iterations {
        let (a2, b2) = (a * a, b * b);
        // The bound is 256 instead of 4, so that the colours are smoother.
        if a2 + b2 > 256.0 {
            let past = (a2 + b2).ln().log2() - 256.0_f64.ln().log2();
            return Some(f64::from(iteration) - past);
        }
        b = 2.0 * a * b + y;
        a = a2 - b2 + x;
    }
    None
}

/// Returns the colour of a point, from three waves with different phases. Points of the set are black.
fn color(escape: Option<f64>) -> [u8; PIXEL] {
    let Some(escape) = escape else {
        return [0; PIXEL];
    };
    let turn = escape.max(0.0).sqrt() * 0.9;
    let wave = |shift: f64| {
        let height = 0.5 - 0.5 * (turn + shift).cos();
        (height * 255.0) as u8
    };
    [wave(0.4), wave(0.9), wave(1.8)]
}

pub(crate) fn encode(view: &View, pixels: &[u8]) -> Result<Vec<u8>, EncodingError> {
    let mut bytes = Vec::new();
    let mut encoder = Encoder::new(&mut bytes, view.width, view.height);
    encoder.set_color(ColorType::Rgb);
    encoder.set_depth(BitDepth::Eight);
    let mut writer = encoder.write_header()?;
    writer.write_image_data(pixels)?;
    writer.finish()?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::view::ViewRequest;

    fn view(json: &str) -> View {
        let request: ViewRequest = serde_json::from_str(json).expect("a request");
        View::try_from(request).expect("within the bounds")
    }

    #[test]
    fn points_of_the_set_stay_and_others_leave() {
        for (x, y) in [(0.0, 0.0), (-1.0, 0.0), (-0.12, 0.74), (0.25, 0.0)] {
            assert_eq!(escape(x, y, 1000), None, "{x} {y}");
        }
        for (x, y) in [(1.0, 0.0), (0.0, 1.1), (-2.1, 0.0)] {
            assert!(escape(x, y, 1000).is_some(), "{x} {y}");
        }
    }

    #[test]
    fn the_picture_is_a_png_of_its_size() {
        let view = view(r#"{"width":31,"height":17}"#);
        let pixels = draw(&view, || false).expect("not stopped");
        let bytes = encode(&view, &pixels).expect("encoded");
        let mut reader = png::Decoder::new(std::io::Cursor::new(bytes))
            .read_info()
            .expect("a PNG");
        let mut read = vec![0; 31 * 17 * PIXEL];
        reader.next_frame(&mut read).expect("a frame");
        assert_eq!((reader.info().width, reader.info().height), (31, 17));
        assert_eq!(read, pixels);
    }

    #[test]
    fn it_stops_between_two_rows() {
        let rows = Cell::new(0);
        let stop = || rows.replace(rows.get() + 1) == 5;
        assert_eq!(draw(&view("{}"), stop), None);
        assert_eq!(rows.get(), 6);
    }
}
