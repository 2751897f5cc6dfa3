//! Kinds of files of records.

/// Format of records in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecordFormat {
    /// A JSON object a line.
    Jsonl,
    /// A text a line.
    Lines,
    /// Columns with a header.
    Csv,
    /// As csv, with tabs.
    Tsv,
}

impl RecordFormat {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Jsonl, Self::Lines, Self::Csv, Self::Tsv];

    /// Name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Jsonl => "jsonl",
            Self::Lines => "lines",
            Self::Csv => "csv",
            Self::Tsv => "tsv",
        }
    }
}
