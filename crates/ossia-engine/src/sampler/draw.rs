//! Drawing a token from what the filters leave.

use ossia_model::Uniforms;

use super::filters;
use super::row::Row;
use crate::SamplingParams;

/// Below this temperature the quotients leave f32's range.
const MIN_TEMPERATURE: f32 = 1e-5;

/// The most probable token if the temperature is next to none, else one drawn with `uniforms`.
pub(super) fn choose(row: &Row<'_>, params: &SamplingParams, uniforms: Uniforms) -> u32 {
    if params.temperature < MIN_TEMPERATURE { row.argmax() } else { draw(row, params, uniforms) }
}

/// A token, drawn with `uniforms`.
///
/// top_p needs no sorting: a token is in the nucleus when the mass of the tokens before it is less than
/// top_p of all. A token that is not is drawn again among those up to it, which are fewer each time.
fn draw(row: &Row<'_>, params: &SamplingParams, mut uniforms: Uniforms) -> u32 {
    let mut mass = row.mass(params.temperature, filters::cutoff(row, params));
    let nucleus = f64::from(params.top_p) * mass.total;
    loop {
        let token = row.token_at(&mass, uniforms.next_uniform());
        if params.top_p >= 1.0 {
            return token;
        }
        let up_to_token = row.mass(params.temperature, row.ranked(token));
        if up_to_token.total - row.mass_of(token, params.temperature) < nucleus {
            return token;
        }
        mass = up_to_token;
    }
}
