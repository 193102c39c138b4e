/* SPDX-License-Identifier: Apache-2.0 */
/* Copyright The Capsule authors */
#include "imager/worker.h"

#include <errno.h>
#include <signal.h>
#include <sys/prctl.h>

int worker_setup(struct error *err)
{
	if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0)
		return error_errno(err, errno, "cannot bind the transfer to its parent");
	return 0;
}
