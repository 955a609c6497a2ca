//! The codebook of `IQ4_NL` and `IQ4_XS`: a 4-bit code is a place in a table of 16 signed values,
//! closer together around zero, where most weights are.

use kvist_base::QuantFormat;

/// Ascending; published with the formats (ggml's `kvalues_iq4nl`).
const VALUES: [i8; 16] = [
    -127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113,
];

/// What the codes of a format stand for, if not for themselves.
pub(crate) const fn codebook(format: QuantFormat) -> Option<&'static [i8; 16]> {
    match format {
        QuantFormat::Iq4Nl | QuantFormat::Iq4Xs => Some(&VALUES),
        _ => None,
    }
}

/// What a 4-bit code stands for.
pub(super) fn value(code: u8) -> f32 {
    f32::from(VALUES[usize::from(code)])
}

/// The code of the value nearest to `x`, of two the lower.
pub(super) fn nearest(x: f32) -> u8 {
    let is_nearer = |a: u8, b: u8| (value(a) - x).abs() < (value(b) - x).abs();
    (1..16).fold(
        0,
        |best, code| if is_nearer(code, best) { code } else { best },
    )
}

/// The scale that puts the value of largest magnitude on the codebook's.
pub(super) fn scale_for(signed_max: f32) -> f32 {
    signed_max / f32::from(VALUES[0])
}
