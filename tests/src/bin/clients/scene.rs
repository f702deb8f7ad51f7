//! What a client does, and what its model's boot is like.

use std::time::Duration;

/// A column of the matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scene {
    Chat,
    Stream,
    Tools,
    Vision,
    Embeddings,
    Responses,
    Patient,
    PatientResponses,
    Failing,
    FailingStream,
}

impl Scene {
    /// In the order of the columns.
    pub const ALL: [Self; 10] = [
        Self::Chat,
        Self::Stream,
        Self::Tools,
        Self::Vision,
        Self::Embeddings,
        Self::Responses,
        Self::Patient,
        Self::PatientResponses,
        Self::Failing,
        Self::FailingStream,
    ];

    /// Its name for the scripts, which is also a part of the model's name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Chat => "chat",
            Self::Stream => "stream",
            Self::Tools => "tools",
            Self::Vision => "vision",
            Self::Embeddings => "embeddings",
            Self::Responses => "responses",
            Self::Patient => "patient",
            Self::PatientResponses => "patient_responses",
            Self::Failing => "failing",
            Self::FailingStream => "failing_stream",
        }
    }

    /// Its column's heading.
    pub const fn heading(self) -> &'static str {
        match self {
            Self::Chat => "chat",
            Self::Stream => "stream with usage",
            Self::Tools => "tools",
            Self::Vision => "image",
            Self::Embeddings => "embeddings",
            Self::Responses => "responses",
            Self::Patient => "stream, boot of 20 s",
            Self::PatientResponses => "responses, boot of 20 s",
            Self::Failing => "failed boot",
            Self::FailingStream => "stream, failed boot",
        }
    }

    /// How long the model boots.
    pub const fn boot(self) -> Duration {
        match self {
            Self::Patient | Self::PatientResponses => Duration::from_secs(20),
            Self::Failing => Duration::from_millis(500),
            // Longer than a stream is silent: the failure comes after the status 200.
            Self::FailingStream => Duration::from_secs(10),
            Self::Chat | Self::Stream | Self::Tools | Self::Vision | Self::Embeddings | Self::Responses => {
                Duration::from_secs(3)
            }
        }
    }

    /// Whether the boot fails.
    pub const fn fails(self) -> bool {
        matches!(self, Self::Failing | Self::FailingStream)
    }

    /// Whether it is part of a quick run.
    pub fn is_quick(self) -> bool {
        !matches!(self, Self::Patient | Self::PatientResponses)
    }
}
