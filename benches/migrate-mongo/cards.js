module.exports = { ...require("./config.js"), migrationsDir: `${__dirname}/cards` };
