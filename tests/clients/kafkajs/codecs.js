// The codecs that kafkajs leaves to plugins, from packages that need no compiler. Snappy is kafkajs's own plugin;
// its own ones for lz4 and zstd compile C, so these two are made of the algorithms alone.

const { CompressionTypes, CompressionCodecs } = require('kafkajs')
const snappy = require('kafkajs-snappy')
const lz4 = require('lz4js')
const zstd = require('@bokuweb/zstd-wasm')

const loaded = zstd.init()
const ZSTD_LEVEL = 3

CompressionCodecs[CompressionTypes.Snappy] = snappy
CompressionCodecs[CompressionTypes.LZ4] = () => ({
  compress: async encoder => Buffer.from(lz4.compress(encoder.buffer)),
  decompress: async buffer => Buffer.from(lz4.decompress(buffer)),
})
CompressionCodecs[CompressionTypes.ZSTD] = () => ({
  compress: async encoder => (await loaded, Buffer.from(zstd.compress(encoder.buffer, ZSTD_LEVEL))),
  decompress: async buffer => (await loaded, Buffer.from(zstd.decompress(buffer))),
})

exports.CODECS = {
  none: CompressionTypes.None,
  gzip: CompressionTypes.GZIP,
  snappy: CompressionTypes.Snappy,
  lz4: CompressionTypes.LZ4,
  zstd: CompressionTypes.ZSTD,
}
