// Numbers as people read them.

import { language } from "./strings.js";

const UNITS = ["B", "KiB", "MiB", "GiB", "TiB"];

/** Bytes with three digits that count. */
export function bytes(count) {
  let unit = 0;
  let value = count;
  while (value >= 1024 && unit < UNITS.length - 1) {
    value /= 1024;
    unit += 1;
  }
  const digits = unit === 0 || value >= 100 ? 0 : value >= 10 ? 1 : 2;
  return `${number(value, digits)} ${UNITS[unit]}`;
}

/** A number with its thousands apart. */
export function number(value, digits = 0) {
  return value.toLocaleString(language(), { minimumFractionDigits: digits, maximumFractionDigits: digits });
}

/** Seconds, finer the fewer there are. */
export function seconds(value) {
  if (value < 0.995) return `${number(value * 1000)} ms`;
  if (value < 60) return `${number(value, value < 10 ? 1 : 0)} s`;
  const minutes = Math.floor(value / 60);
  return minutes < 60 ? `${minutes} min ${number(value % 60)} s` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

/** A speed. */
export function rate(value) {
  return number(value, value < 10 ? 1 : 0);
}

/** A share. */
export function percent(part, whole) {
  return whole > 0 ? `${number((100 * part) / whole, part / whole < 0.1 ? 1 : 0)} %` : "–";
}
