//! Undoes the compression of an answer, which some servers use although nobody has asked for it.

use async_compression::tokio::bufread::{BrotliDecoder, DeflateDecoder, GzipDecoder, ZlibDecoder};
use http::{HeaderMap, header::CONTENT_ENCODING};
use tokio::io::{AsyncRead, AsyncReadExt};

/// The body of an answer with these headers as it was before it was compressed; `None` if that is more than `max_bytes`. A body that
/// isn't compressed as its headers say stays as it is.
pub(super) async fn decoded(headers: &HeaderMap, mut body: Vec<u8>, max_bytes: usize) -> Option<Vec<u8>> {
    let values = headers.get_all(CONTENT_ENCODING).iter();
    let codings: Vec<_> = values.filter_map(|value| value.to_str().ok()).collect();
    let codings = codings.join(",").to_ascii_lowercase();
    // They are in the order in which they were applied.
    for coding in codings.rsplit(',').map(str::trim) {
        let undone = match coding {
            "gzip" | "x-gzip" => read(GzipDecoder::new(&body[..]), max_bytes).await,
            "br" => read(BrotliDecoder::new(&body[..]), max_bytes).await,
            // Some servers leave out the zlib around it.
            "deflate" => match read(ZlibDecoder::new(&body[..]), max_bytes).await {
                Some(undone) => Some(undone),
                None => read(DeflateDecoder::new(&body[..]), max_bytes).await,
            },
            _ => None,
        };
        let Some(undone) = undone else { break };
        if undone.len() > max_bytes {
            return None;
        }
        body = undone;
    }
    Some(body)
}

/// What comes out of a decoder, but at most one byte more than `max_bytes`; `None` if it isn't compressed so.
async fn read(decoder: impl AsyncRead + Unpin, max_bytes: usize) -> Option<Vec<u8>> {
    let mut decoded = Vec::new();
    let mut decoder = decoder.take(max_bytes as u64 + 1);
    decoder.read_to_end(&mut decoded).await.ok()?;
    Some(decoded)
}

#[cfg(test)]
mod tests {
    use super::*;
    use async_compression::tokio::write::{BrotliEncoder, DeflateEncoder, GzipEncoder, ZlibEncoder};
    use tokio::io::{AsyncWrite, AsyncWriteExt};

    const TEXT: &[u8] = b"{\"choices\":[{\"text\":\"\"}]}";

    /// What an encoder makes of a text.
    macro_rules! encoded {
        ($encoder:ident, $text:expr) => {{
            let mut encoder = $encoder::new(Vec::new());
            write(&mut encoder, $text).await;
            encoder.into_inner()
        }};
    }

    async fn write(encoder: &mut (impl AsyncWrite + Unpin), text: &[u8]) {
        encoder.write_all(text).await.expect("compressible");
        encoder.shutdown().await.expect("compressible");
    }

    fn headers(coding: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(CONTENT_ENCODING, http::HeaderValue::from_static(coding))])
    }

    #[tokio::test]
    async fn every_usual_compression_is_undone_and_what_is_not_compressed_stays() {
        for (coding, body) in [
            ("gzip", encoded!(GzipEncoder, TEXT)),
            ("X-GZip", encoded!(GzipEncoder, TEXT)),
            ("br", encoded!(BrotliEncoder, TEXT)),
            ("deflate", encoded!(ZlibEncoder, TEXT)),
            ("deflate", encoded!(DeflateEncoder, TEXT)),
            ("br, gzip", encoded!(GzipEncoder, &encoded!(BrotliEncoder, TEXT))),
            ("identity", TEXT.to_vec()),
            ("gzip", TEXT.to_vec()),
        ] {
            let decoded = decoded(&headers(coding), body, 1024).await;
            assert_eq!(decoded.expect("small"), TEXT, "{coding}");
        }
    }

    #[tokio::test]
    async fn a_small_body_that_would_be_a_huge_one_is_not() {
        let bomb = encoded!(GzipEncoder, &vec![0; 1024 * 1024]);
        assert!(bomb.len() < 8 * 1024);
        let decoded = decoded(&headers("gzip"), bomb, 16 * 1024).await;
        assert_eq!(decoded, None);
    }
}
