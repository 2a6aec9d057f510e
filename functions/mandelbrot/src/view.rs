//! Checks which part of the set to draw, and in which size. This module draws nothing.

use serde::Deserialize;

const SIDE_MAX: u32 = 4096;
const PIXELS_MAX: u32 = 4_000_000;
const ITERATIONS_MAX: u32 = 10_000;
/// At a smaller scale, neighbouring pixels would have the same coordinates.
const SCALE_MIN: f64 = 1e-12;

/// The input. A missing field has its default.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct ViewRequest {
    width: u32,
    height: u32,
    center_x: f64,
    center_y: f64,
    /// The picture's width on the real axis.
    scale: f64,
    max_iterations: u32,
}

impl Default for ViewRequest {
    fn default() -> Self {
        Self {
            width: 640,
            height: 480,
            center_x: -0.65,
            center_y: 0.0,
            scale: 3.2,
            max_iterations: 250,
        }
    }
}

/// A request that can be drawn.
#[derive(Debug)]
pub(crate) struct View {
    pub(crate) width: u32,
    pub(crate) height: u32,
    pub(crate) max_iterations: u32,
    left: f64,
    top: f64,
    step: f64,
}

impl TryFrom<ViewRequest> for View {
    type Error = String;

    fn try_from(request: ViewRequest) -> Result<Self, String> {
        let ViewRequest {
            width,
            height,
            max_iterations,
            ..
        } = request;
        for (name, value, most) in [
            ("width", width, SIDE_MAX),
            ("height", height, SIDE_MAX),
            ("maxIterations", max_iterations, ITERATIONS_MAX),
        ] {
            if !(1..=most).contains(&value) {
                return Err(format!("{name} must be 1 to {most}, is {value}"));
            }
        }
        // The product fits 32 bits, because each side is at most `SIDE_MAX`.
        if width * height > PIXELS_MAX {
            return Err(format!(
                "width × height must be at most {PIXELS_MAX}, is {}",
                width * height
            ));
        }
        for (name, value) in [("centerX", request.center_x), ("centerY", request.center_y)] {
            if !(-4.0..=4.0).contains(&value) {
                return Err(format!("{name} must be -4 to 4, is {value}"));
            }
        }
        if !(SCALE_MIN..=16.0).contains(&request.scale) {
            let scale = request.scale;
            return Err(format!("scale must be {SCALE_MIN:e} to 16, is {scale}"));
        }
        let step = request.scale / f64::from(width);
        Ok(Self {
            width,
            height,
            max_iterations,
            left: request.center_x - step * f64::from(width) / 2.0,
            top: request.center_y + step * f64::from(height) / 2.0,
            step,
        })
    }
}

impl View {
    /// Returns the complex number at the middle of a pixel.
    pub(crate) fn point(&self, column: u32, row: u32) -> (f64, f64) {
        let x = self.left + (f64::from(column) + 0.5) * self.step;
        let y = self.top - (f64::from(row) + 0.5) * self.step;
        (x, y)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(json: &str) -> Result<View, String> {
        let request: ViewRequest = serde_json::from_str(json).expect("a request");
        View::try_from(request)
    }

    #[test]
    fn nothing_asked_for_is_the_whole_set() {
        let view = view("{}").expect("the defaults are sound");
        assert_eq!((view.width, view.height), (640, 480));
        let (x, y) = view.point(320, 240);
        assert!((x + 0.65).abs() < 0.01 && y.abs() < 0.01, "{x} {y}");
    }

    #[test]
    fn every_bound_is_named() {
        for (json, field) in [
            (r#"{"width":0}"#, "width"),
            (r#"{"height":4097}"#, "height"),
            (r#"{"width":4096,"height":4096}"#, "width × height"),
            (r#"{"centerX":5}"#, "centerX"),
            (r#"{"centerY":-5}"#, "centerY"),
            (r#"{"scale":0}"#, "scale"),
            (r#"{"maxIterations":10001}"#, "maxIterations"),
        ] {
            let message = view(json).expect_err(json);
            assert!(message.starts_with(field), "{message}");
        }
        assert!(view(r#"{"width":4096,"height":976,"maxIterations":10000}"#).is_ok());
    }
}
