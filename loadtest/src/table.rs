//! Formats tables for the terminal and for a page. The tables show only some of the figures; the JSON has all
//! of them.

use comfy_table::presets::UTF8_FULL_CONDENSED;
use comfy_table::{CellAlignment, ContentArrangement, Table};
use maud::{Markup, html};

/// Rows of cells under columns. The first column is text, the others are figures. In a cell, the text after a
/// line break is less important, and a page shows it smaller.
pub(crate) struct ReportTable {
    pub(crate) title: String,
    pub(crate) columns: Vec<&'static str>,
    pub(crate) rows: Vec<Vec<String>>,
}

impl ReportTable {
    pub(crate) fn print(self) {
        let mut table = Table::new();
        table
            .load_style(UTF8_FULL_CONDENSED)
            .set_content_arrangement(ContentArrangement::Dynamic)
            .set_header(&self.columns)
            .add_rows(self.rows);
        for column in table.column_iter_mut().skip(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        println!("{}\n{table}", self.title);
    }

    pub(crate) fn html(&self) -> Markup {
        html! {
            h2 { (self.title) }
            div.wide {
                table {
                    tr { @for column in &self.columns { th { (column) } } }
                    @for row in &self.rows {
                        tr {
                            @for cell in row {
                                @let (value, more) = cell.split_once('\n').unwrap_or((cell, ""));
                                td { (value) small { (more) } }
                            }
                        }
                    }
                }
            }
        }
    }
}
