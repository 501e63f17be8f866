// The part of JSON Schema 2020-12 that report.schema.json uses. A keyword it does not know is an
// error, so that the schema cannot say more than is checked.
import fs from 'node:fs';
import path from 'node:path';
import { agentsDirectory } from './harness.mjs';

const file = path.join(agentsDirectory, 'report.schema.json');
export const reportSchema = JSON.parse(fs.readFileSync(file, 'utf8'));

const annotations = new Set(['$schema', '$id', '$defs', 'title', 'description']);
const formats = {
  uuid: (text) => /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i.test(text),
  'date-time': (text) => /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)$/.test(text) && !Number.isNaN(Date.parse(text)),
};
const types = {
  object: (v) => typeof v === 'object' && v !== null && !Array.isArray(v),
  array: Array.isArray,
  string: (v) => typeof v === 'string',
  number: (v) => typeof v === 'number',
  integer: Number.isInteger,
  boolean: (v) => typeof v === 'boolean',
};
const checks = {
  $ref: (ref, v, at) => errorsOf(reportSchema.$defs[ref.replace('#/$defs/', '')], v, at),
  type: (type, v) => types[type](v),
  enum: (values, v) => values.includes(v),
  format: (format, v) => formats[format](v),
  pattern: (pattern, v) => new RegExp(pattern, 'u').test(v),
  minimum: (limit, v) => v >= limit,
  maximum: (limit, v) => v <= limit,
  minLength: (limit, v) => [...v].length >= limit,
  maxLength: (limit, v) => [...v].length <= limit,
  maxItems: (limit, v) => v.length <= limit,
  required: (names, v) => names.every((name) => Object.hasOwn(v, name)),
  items: (schema, v, at) => v.flatMap((item, i) => errorsOf(schema, item, `${at}[${i}]`)),
  properties: (schemas, v, at) =>
    Object.entries(schemas).flatMap(([name, schema]) =>
      Object.hasOwn(v, name) ? errorsOf(schema, v[name], `${at}.${name}`) : []),
};

/** What is wrong with `value`, one text each; empty when it is valid. */
export function errorsOf(schema, value, at = 'report') {
  if (schema.type && !types[schema.type](value)) return [`${at} is not ${schema.type}`];
  return Object.entries(schema).flatMap(([keyword, wanted]) => {
    if (annotations.has(keyword)) return [];
    if (!checks[keyword]) throw new Error(`keyword ${keyword} at ${at} is not checked`);
    const result = checks[keyword](wanted, value, at);
    if (Array.isArray(result)) return result;
    return result ? [] : [`${at}: ${keyword} ${JSON.stringify(wanted)} fails for ${JSON.stringify(value)}`];
  });
}

/** Also what JSON Schema cannot say: used is at most total. */
export function reportErrors(report) {
  const errors = errorsOf(reportSchema, report);
  if (report.memoryUsedBytes > report.memoryTotalBytes) errors.push('more memory used than there is');
  for (const disk of report.disks ?? []) {
    if (disk.usedBytes > disk.totalBytes) errors.push(`${disk.mount}: more used than there is`);
  }
  return errors;
}
