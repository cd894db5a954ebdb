//! How a watch says that its initial state is complete.
//!
//! A watch with `sendInitialEvents=true`, as every informer of a recent client-go begins, sends a bookmark behind the last
//! object, with an annotation (`apimachinery:pkg/apis/meta/v1/types.go`, `InitialEventsAnnotationKey`). JSON, CBOR and
//! protobuf all hold both words as they are. Others (Table) have to fall quiet.

/// A bookmark holds nothing but kind, version and this annotation: it is looked for in so many bytes.
const BOOKMARK: usize = 1 << 10;

const TYPE: &[u8] = b"BOOKMARK";
const ANNOTATION: &[u8] = b"k8s.io/initial-events-end";

/// Whether a piece of a watch ends with the bookmark. The server flushes it, so it ends a piece. One that is cut in two is
/// not seen; one that an object imitates with its last words gives back the seat of a stream a little early.
pub(super) fn end_in(piece: &[u8]) -> bool {
    let (_, end) = piece.split_at(piece.len().saturating_sub(BOOKMARK));
    behind(end, TYPE)
        .and_then(|rest| behind(rest, ANNOTATION))
        .is_some()
}

/// What comes behind the first of these words.
fn behind<'a>(text: &'a [u8], word: &[u8]) -> Option<&'a [u8]> {
    let at = text.windows(word.len()).position(|part| part == word)?;
    text.get(at + word.len()..)
}

#[cfg(test)]
mod tests {
    use super::*;

    const JSON: &str = r#"{"type":"BOOKMARK","object":{"kind":"Pod","apiVersion":"v1","metadata":{
        "resourceVersion":"12","annotations":{"k8s.io/initial-events-end":"true"}},"spec":{"containers":null}}}"#;

    #[test]
    fn the_bookmark_behind_the_last_object_is_the_end() {
        assert!(end_in(JSON.as_bytes()));
        let objects = r#"{"type":"ADDED","object":{}}"#.repeat(1_000) + JSON;
        assert!(end_in(objects.as_bytes()));
    }

    #[test]
    fn other_bookmarks_and_objects_that_carry_the_words_are_not() {
        assert!(!end_in(b""));
        assert!(!end_in(br#"{"type":"BOOKMARK","object":{"metadata":{}}}"#));
        let annotated = br#"{"type":"ADDED","object":{"a":"k8s.io/initial-events-end"}}"#;
        assert!(!end_in(annotated));
        let before = JSON.to_owned() + &r#"{"type":"ADDED","object":{}}"#.repeat(100);
        assert!(!end_in(before.as_bytes()));
    }
}
