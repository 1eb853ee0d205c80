import assert from "node:assert/strict"
import { readdirSync, readFileSync } from "node:fs"
import { test } from "node:test"

import { learn, t, wordsOf } from "../../web/viewer/words.mjs"
import zh from "../../web/viewer/words.zh.mjs"

const web = new URL("../../web/", import.meta.url)
const sources = ["lgm.js", ...readdirSync(new URL("viewer/", web)).map((name) => `viewer/${name}`)]

/** Every text that is written in a call of t. */
const said = new Set(
  sources
    .filter((name) => /\.m?js$/.test(name))
    .flatMap((name) => [
      ...readFileSync(new URL(name, web), "utf8").matchAll(/\bt\(\s*"((?:[^"\\]|\\.)+)"/g),
    ])
    .map((match) => JSON.parse(`"${match[1]}"`)),
)
const names = (text) => [...text.matchAll(/\{(\w+)\}/g)].map((match) => match[1]).sort()

test("the Chinese table has every text, and no other", () => {
  assert.ok(said.size > 60)
  assert.deepEqual([...said].filter((text) => !(text in zh)).sort(), [])
  assert.deepEqual(Object.keys(zh).filter((text) => !said.has(text)).sort(), [])
})

test("a translation has the values of its text", () => {
  for (const [text, translated] of Object.entries(zh)) {
    assert.deepEqual(names(translated), names(text), text)
    assert.match(translated, /[\u4e00-\u9fff]/, text)
  }
})

test("a language without a table, and none at all, are English", async () => {
  for (const locale of ["zh", "fr", "constructor", undefined]) {
    await learn(locale)
    const english = "{kept} of {count} Gaussians"
    const values = { kept: 1, count: 2 }
    const expected = locale === "zh" ? "2 个高斯点中的 1 个" : "1 of 2 Gaussians"
    assert.equal(t(english, values), expected)
  }
})

test("with and without a graph the viewer has something to say of the same things", () => {
  const [inGraph, alone] = [wordsOf({}), wordsOf({ alone: true })]
  assert.deepEqual(Object.keys(alone).sort(), Object.keys(inGraph).sort())
})
