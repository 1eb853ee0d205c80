/** Drawings for the buttons, 16 x 16, in the color of the text. */
const drawing = (/** @type {string} */ inside) =>
  `<svg viewBox="0 0 16 16" width="16" height="16" aria-hidden="true" fill="none" ` +
  `stroke="currentColor" stroke-width="1.4" stroke-linecap="round" stroke-linejoin="round">` +
  `${inside}</svg>`

const DOT = 'fill="currentColor" stroke="none"'

/** @type {Record<string, string>} */
export const ICONS = {
  look: drawing(
    `<path d="M1.5 8C3.4 4.9 5.6 3.4 8 3.4S12.6 4.9 14.5 8C12.6 11.1 10.4 12.6 8 12.6S3.4 11.1 1.5 8Z"/>` +
      `<circle cx="8" cy="8" r="2.1"/>`,
  ),
  camera: drawing(
    `<rect x="1.5" y="4.5" width="8.6" height="7" rx="1.4"/><path d="M10.1 7.4 14.5 5v6l-4.4-2.4"/>`,
  ),
  crop: drawing(
    `<path d="M8 1.8 13.6 4.9v6.2L8 14.2 2.4 11.1V4.9Z"/><path d="M2.4 4.9 8 8l5.6-3.1M8 8v6.2"/>`,
  ),
  compare: drawing(
    `<rect x="1.8" y="3" width="12.4" height="10" rx="1.4"/><path d="M8 1.5v13"/>` +
      `<path d="M10.4 6 12.2 8l-1.8 2M5.6 6 3.8 8l1.8 2"/>`,
  ),
  picture: drawing(
    `<rect x="1.8" y="2.6" width="12.4" height="10.8" rx="1.4"/>` +
      `<circle cx="5.4" cy="6" r="1.1" ${DOT}/><path d="m2.4 12 4-3.6 2.4 2 2.2-2.6 3 3.2"/>`,
  ),
  turntable: drawing(
    `<path d="M5.6 5.3C3.2 5.7 1.6 6.7 1.6 8c0 1.8 2.9 3.1 6.4 3.1 1.1 0 2.1-.1 3-.4"/>` +
      `<path d="M10.4 5.3c2.4.4 4 1.4 4 2.7 0 .5-.2 1-.7 1.4M8.9 8.4l2.3 2.3-2.3 2.3"/>` +
      `<path d="M8 1.4v6.2"/>`,
  ),
  fit: drawing(
    `<path d="M2 5.4V2h3.4M10.6 2H14v3.4M14 10.6V14h-3.4M5.4 14H2v-3.4"/>` +
      `<circle cx="8" cy="8" r="2" ${DOT}/>`,
  ),
  reset: drawing(`<path d="M3 8.4a5.1 5.1 0 1 0 1.6-4.1L2.8 6"/><path d="M2.6 2.6V6H6"/>`),
  full: drawing(`<path d="M9.6 6.4 14 2m-4 0h4v4M6.4 9.6 2 14m0-4v4h4"/>`),
  close: drawing(`<path d="m4 4 8 8m0-8-8 8"/>`),
}
