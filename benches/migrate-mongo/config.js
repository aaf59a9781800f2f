module.exports = {
  mongodb: { url: process.env.BENCH_URI, options: {} },
  migrationsDir: `${__dirname}/migrations`,
  changelogCollectionName: "changelog",
  migrationFileExtension: ".js",
  moduleSystem: "commonjs",
};
