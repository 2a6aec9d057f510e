//! 
pub mod request;
pub mod answer;
pub mod head;
pub mod field;
pub mod chunked;
pub mod json;
mod scan;
